//! Gives a WASI program a working directory.
//!
//! WASI itself has no working directory. The C library of nearly all programs resolves a path against its list of
//! preopened folders. It strips leading `/` and `./` from the folders' names and from the path. Then it takes the
//! folder with the longest name that is a prefix of the path, and of equal names the last. So a relative path means one
//! below `/`, and if `/` is in the list, it matches.
//!
//! So with a working directory other than `/`, the folder `.` comes first (descriptor 3, which other libraries take for
//! the working directory). The folders in `/`, such as `/etc` and `/data`, replace `/`. An absolute path then finds its
//! folder by the longest prefix, and a relative path finds `.`. Two kinds of path remain out of reach. One is a file
//! directly in `/`. The other is a relative path with the name of a folder in `/` as its first part. A program that
//! asks for its initial working directory (components can) and makes its paths absolute is not affected.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::end::setup;
use crate::{Preopen, RunError};

/// A folder to open, and its name for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) host: PathBuf,
    pub(crate) guest: String,
    pub(crate) read_only: bool,
    /// Whether the program must not run without it. A folder that was found in `/` may be inaccessible to this user.
    pub(crate) required: bool,
}

impl Folder {
    /// Makes the error of a folder that a guest cannot get.
    pub(crate) fn refused(&self, reason: &str) -> RunError {
        setup(format!("folder {} as {:?}: {reason}", self.host.display(), self.guest))
    }
}

/// Returns the folders to open, in order, so that relative paths start at `cwd`.
pub(crate) fn resolve(preopens: &[Preopen], cwd: &Path) -> Vec<Folder> {
    let cwd = parts(cwd);
    let mut folders = Vec::new();
    if !cwd.is_empty() {
        folders.extend(working_folder(preopens, &cwd));
    }
    let expand = !folders.is_empty();
    for preopen in preopens {
        if expand && parts(Path::new(&preopen.guest)).is_empty() {
            folders.extend(folders_in(preopen));
        } else {
            let Preopen { host, guest, read_only } = preopen.clone();
            folders.push(Folder { host, guest, read_only, required: true });
        }
    }
    folders
}

/// Indices of `/`, and of the folder that stands for either, in the list of [`told_apart`].
#[cfg(feature = "wasmtime")]
pub(crate) const ROOT: i32 = 1;
pub(crate) const EITHER: i32 = 2;

/// Returns the folders to open, for an engine that inspects each path itself. A guest that has its process's whole root, and works in
/// another folder, gets three folders. The first is the working directory, for libraries that take the first folder for it. The second is
/// `/`, for libraries that make their paths absolute. The last stands for either (see [`crate::working`]), for the C library, which takes
/// the last of equal names.
pub(crate) fn told_apart(guest: &crate::Guest) -> Vec<Folder> {
    if !crate::paths::has_root(&guest.preopens) || working(guest).is_none() {
        return resolve(&guest.preopens, &guest.cwd);
    }
    let read_only = guest.preopens.iter().any(|folder| folder.read_only);
    let folder =
        |host: &Path, guest: &str| Folder { host: host.to_owned(), guest: guest.to_owned(), read_only, required: true };
    vec![folder(&guest.cwd, "."), folder(Path::new("/"), "/"), folder(&guest.cwd, ".")]
}

/// Returns how to resolve paths that may start in the working directory or in `/`; `None` if the two are the same folder.
pub(crate) fn working(guest: &crate::Guest) -> Option<crate::working::Working> {
    let applies = crate::paths::has_root(&guest.preopens) && guest.cwd.is_absolute();
    applies.then(|| crate::working::Working::open(&guest.cwd)).flatten()
}

/// Finds the folder that contains `cwd`: the one with the longest name.
fn working_folder(preopens: &[Preopen], cwd: &[&str]) -> Option<Folder> {
    let candidates = preopens.iter().filter_map(|preopen| {
        let name = parts(Path::new(&preopen.guest));
        let rest = cwd.strip_prefix(name.as_slice())?;
        Some((name.len(), preopen.host.join(rest.iter().collect::<PathBuf>()), preopen.read_only))
    });
    let (_, host, read_only) = candidates.max_by_key(|(length, ..)| *length)?;
    Some(Folder { host, guest: ".".to_string(), read_only, required: true })
}

/// Lists the folders in a root folder, by name.
fn folders_in(root: &Preopen) -> Vec<Folder> {
    let Ok(entries) = fs::read_dir(&root.host) else {
        return Vec::new();
    };
    let inside = fs::canonicalize(&root.host).unwrap_or_else(|_| root.host.clone());
    let mut folders: Vec<Folder> = entries
        .flatten()
        .filter_map(|entry| {
            // A link must not lead out of this root, which need not be the process's own.
            let host = fs::canonicalize(entry.path()).ok().filter(|host| host.starts_with(&inside) && host.is_dir())?;
            let guest = format!("/{}", entry.file_name().to_str()?);
            Some(Folder { host, guest, read_only: root.read_only, required: false })
        })
        .collect();
    folders.sort_by(|a, b| a.guest.cmp(&b.guest));
    folders
}

/// Returns the parts of a path in the guest's view. `..` at `/` stays at `/`.
fn parts(path: &Path) -> Vec<&str> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.extend(part.to_str()),
            Component::ParentDir => {
                parts.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preopen(host: &Path, guest: &str) -> Preopen {
        Preopen { host: host.to_path_buf(), guest: guest.to_string(), read_only: false }
    }

    fn names(folders: &[Folder]) -> Vec<&str> {
        folders.iter().map(|folder| folder.guest.as_str()).collect()
    }

    /// With `/` as the working directory, the folders are opened unchanged.
    #[test]
    fn root_needs_nothing() {
        let given = [preopen(Path::new("/a"), "/"), preopen(Path::new("/b"), "/data")];
        for cwd in ["/", "", ".", "/x/.."] {
            let folders = resolve(&given, Path::new(cwd));
            assert_eq!(names(&folders), ["/", "/data"], "{cwd}");
            assert!(folders.iter().all(|folder| folder.required));
        }
    }

    /// Another working directory becomes `.`, and `/` is replaced by the folders in it, without links that lead out.
    #[test]
    fn root_is_expanded() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        for folder in ["etc", "work/deep", "usr/bin"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("usr/bin", root.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("out")).unwrap();
        let folders = resolve(&[preopen(root.path(), "/")], Path::new("/work/deep"));
        assert_eq!(names(&folders), [".", "/bin", "/etc", "/usr", "/work"]);
        assert_eq!(folders[0].host, root.path().join("work/deep"));
        assert!(folders[0].required && !folders[1].required);
        assert!(folders[1].host.ends_with("usr/bin"));
    }

    /// The folders that replace a read-only folder are read-only too.
    #[test]
    fn read_only_stays_so() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("work")).unwrap();
        for cwd in ["/", "/work"] {
            let given = Preopen { read_only: true, ..preopen(root.path(), "/") };
            assert!(resolve(&[given], Path::new(cwd)).iter().all(|folder| folder.read_only), "{cwd}");
        }
    }

    /// The working directory is opened in the folder with the longest matching name.
    #[test]
    fn longest_name_holds_the_working_directory() {
        let given =
            [preopen(Path::new("/a"), "/data"), preopen(Path::new("/b"), "data/x/"), preopen(Path::new("/c"), "/dat")];
        let folders = resolve(&given, Path::new("/data/x/y"));
        assert_eq!(names(&folders), [".", "/data", "data/x/", "/dat"]);
        assert_eq!(folders[0].host, Path::new("/b/y"));
    }

    /// A working directory outside all folders changes nothing: no folder contains it.
    #[test]
    fn outside_of_all_folders() {
        let folders = resolve(&[preopen(Path::new("/a"), "/data")], Path::new("/other"));
        assert_eq!(names(&folders), ["/data"]);
    }
}
