//! Decides which file a path means that may start in the working directory or in `/`.
//!
//! WASI has no working directory. Nearly all programs carry a C library (wasi-libc) that strips `/` and `./` from the
//! beginning of a path. So `/data/x` and `data/x` arrive as the same `data/x`, in the last folder with a name that is
//! empty after the same treatment. Where the working directory is not `/`, that folder is a separate one, after the
//! folders for libraries that can tell: see [`crate::preopens`]. The engine looks up such a path in both places. If
//! only one place has a suitable file, the path means that one. If both have one, and the two are not the same file,
//! nobody knows the meaning. Then the engine refuses the call, with a line on standard error. It never opens the wrong
//! file silently.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::fd::OwnedFd;
#[cfg(any(feature = "wamr", feature = "wasmedge", feature = "wasmer"))]
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use crate::paths::{Follow, again, trimmed};

/// The intent of a call for the file at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// The file must exist.
    Use,
    /// The call only asks for the file's attributes.
    Look,
    /// The call makes the file if it does not exist.
    Create,
    /// The file must not exist.
    New,
}

/// The place that a path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The one in the working directory.
    Working,
    /// The one in `/`.
    Root,
    /// Nobody knows.
    Unknown,
}

/// Maximum number of paths that are reported, each once.
const TOLD: usize = 64;

/// The working directory and the root of a guest.
#[derive(Debug)]
pub(crate) struct Working {
    folder: OwnedFd,
    root: OwnedFd,
    /// The working directory, for messages.
    name: PathBuf,
    told: Mutex<BTreeSet<Vec<u8>>>,
}

impl Working {
    /// Opens both; `None` if the working directory is the root, or cannot be opened.
    pub(crate) fn open(cwd: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty()).ok();
        let (folder, root) = (open(cwd)?, open(Path::new("/"))?);
        let is_root = identity(&folder).is_some() && identity(&folder) == identity(&root);
        (!is_root).then(|| Self { folder, root, name: cwd.to_owned(), told: Mutex::default() })
    }

    /// Returns `/`.
    #[cfg(any(feature = "wamr", feature = "wasmedge", feature = "wasmer"))]
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Chooses a place. Reports on standard error if nobody knows which one.
    pub(crate) fn choose(&self, path: &[u8], follow: Follow, intent: Intent) -> Choice {
        let choice = self.chosen(path, follow, intent);
        let is_new = |told: &mut BTreeSet<Vec<u8>>| told.len() < TOLD && told.insert(path.to_vec());
        if choice == Choice::Unknown && self.told.lock().is_ok_and(|mut told| is_new(&mut told)) {
            let path = Path::new(OsStr::from_bytes(path));
            let line = format!(
                "prewasi: refused {path:?}: it may be {:?} or {:?}, and the program's library does not tell which it means; give the \
                 container another working directory, or remove one of them\n",
                self.name.join(path),
                Path::new("/").join(path),
            );
            // The stream may have no reader.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
        choice
    }

    fn chosen(&self, path: &[u8], follow: Follow, intent: Intent) -> Choice {
        // An absolute path comes from a library that strips nothing, and a path that climbs is relative.
        let is_relative = matches!(path, b"" | b"." | b"./" | b"..") || path.starts_with(b"../");
        if is_relative || path.starts_with(b"/") {
            return Choice::Working;
        }
        let look = |from: &OwnedFd, path: &[u8], follow| {
            let flags = OFlags::PATH | OFlags::CLOEXEC | if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
            let path = Path::new(OsStr::from_bytes(path));
            again(|| openat2(from, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS))
        };
        let makes = matches!(intent, Intent::Create | Intent::New);
        let name = trimmed(path);
        let parent = name.iter().rposition(|byte| *byte == b'/').map_or(&b"."[..], |slash| &name[..slash]);
        let has_parent = |from: &OwnedFd| look(from, parent, true).is_ok();
        // A file that cannot be looked at may still exist.
        let there = |found: &Result<OwnedFd, Errno>| !matches!(found, Err(Errno::NOENT | Errno::NOTDIR));
        let looked = if follow == Follow::Never { name } else { path };
        // No call makes a file in the place of a link, so the link's target does not matter.
        let follow = follow == Follow::Always && !makes;
        let (own, other) = (look(&self.folder, looked, follow), look(&self.root, looked, follow));
        match (there(&own), there(&other)) {
            (true, false) => Choice::Working,
            (false, true) if makes && has_parent(&self.folder) => match intent {
                // A program that makes all folders of a path must learn that the first exists.
                Intent::New if is_folder(&look(&self.root, path, true)) => Choice::Root,
                _ => Choice::Unknown,
            },
            (false, true) => Choice::Root,
            (true, true) if own.as_ref().ok().and_then(identity) == other.as_ref().ok().and_then(identity) => {
                Choice::Working
            }
            (true, true) if intent == Intent::Look && is_folder(&own) && is_folder(&other) => Choice::Working,
            (true, true) => Choice::Unknown,
            // A file in the place of a folder says more than a missing file.
            (false, false) if !makes => match (&own, &other) {
                (Err(Errno::NOENT), Err(Errno::NOTDIR)) => Choice::Root,
                _ => Choice::Working,
            },
            (false, false) => match (has_parent(&self.folder), has_parent(&self.root)) {
                (false, true) => Choice::Root,
                // No program makes files in `/`.
                (true, true) if parent != b"." => Choice::Unknown,
                _ => Choice::Working,
            },
        }
    }
}

fn identity(file: &OwnedFd) -> Option<(u64, u64)> {
    fstat(file).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

fn is_folder(file: &Result<OwnedFd, Errno>) -> bool {
    let stat = file.as_ref().ok().and_then(|file| fstat(file).ok());
    stat.is_some_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A path means the file that only one place has. A path that both places have is refused, unless the file is the
    /// same.
    #[test]
    fn choices() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["app/data", "data", "app/own", "etc", "app/both", "both"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        for path in ["app/data/x", "data/x", "app/data/own", "data/root", "app/here", "top.toml", "app/file", "file"] {
            fs::write(at(path), path).unwrap();
        }
        std::os::unix::fs::symlink("../same", at("app/same")).unwrap();
        fs::write(at("same"), "").unwrap();
        let open = |path: &str| fs::File::open(at(path)).unwrap().into();
        let working = Working { folder: open("app"), root: open(""), name: "/app".into(), told: Mutex::default() };
        let chosen = |path: &str, intent| working.chosen(path.as_bytes(), Follow::Always, intent);
        use Choice::{Root, Unknown, Working as Own};
        use Intent::{Create, Look, New, Use};
        for (path, intent, choice) in [
            ("here", Use, Own),
            ("data/own", Use, Own),
            ("top.toml", Use, Root),
            ("data/root", Use, Root),
            ("app/here", Use, Root),
            ("data/x", Use, Unknown),
            ("file", Create, Unknown),
            ("same", Use, Own),
            ("missing", Use, Own),
            ("top.toml/x", Use, Root),
            ("data", Look, Own),
            ("data", Use, Unknown),
            (".", Use, Own),
            ("../data/x", Use, Own),
            ("new", Create, Own),
            ("own/new", Create, Own),
            ("etc/new", Create, Root),
            ("both/new", Create, Unknown),
            ("here", Create, Own),
            ("top.toml", Create, Unknown),
            ("etc", New, Root),
            ("new", New, Own),
            ("missing/new", New, Own),
        ] {
            assert_eq!(chosen(path, intent), choice, "{path} {intent:?}");
        }
        for (link, target) in [("linked", "etc"), ("dangling", "missing")] {
            std::os::unix::fs::symlink(target, at(link)).unwrap();
        }
        for (path, intent, choice) in [
            ("etc/", New, Root),
            ("linked", New, Root),
            ("linked/", New, Root),
            ("new/", New, Own),
            ("etc/new/", New, Root),
            ("both/new/", New, Unknown),
            ("dangling/", New, Unknown),
            ("linked/", Use, Root),
            ("dangling/", Use, Root),
        ] {
            let chosen = working.chosen(path.as_bytes(), Follow::Never, intent);
            assert_eq!(chosen, choice, "{path} {intent:?}, without links");
        }
    }
}
