//! A file that appears under its name when it is complete, or never.
//!
//! Until then it has no name at all where the file system can do that (`O_TMPFILE`), so that even a killed process leaves
//! nothing behind. Elsewhere it has a temporary name beside its target, which is removed on failure.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use tempfile::NamedTempFile;

pub(crate) struct Output {
    target: PathBuf,
    staged: Staged,
}

enum Staged {
    Nameless(File),
    Named(NamedTempFile),
}

/// The permissions of a new file; the umask removes some of them.
const MODE: u32 = 0o666;

impl Output {
    /// Begins a file that will be `target`.
    pub(crate) fn create(target: &Path) -> io::Result<Self> {
        let folder = folder(target);
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let staged = match rustix::fs::open(folder, flags, Mode::from_raw_mode(MODE)) {
            Ok(file) => Staged::Nameless(File::from(file)),
            // The other way either works or gives the better error.
            Err(_) => Staged::Named(builder(&prefix(target)).tempfile_in(folder)?),
        };
        Ok(Self { target: target.to_owned(), staged })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        match &mut self.staged {
            Staged::Nameless(file) => file,
            Staged::Named(file) => file.as_file_mut(),
        }
    }

    /// Gives the complete file its name.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        self.file().sync_all()?;
        let folder = folder(&self.target);
        match self.staged {
            Staged::Nameless(file) => {
                // A link does not replace an existing file; a rename does.
                let source = format!("/proc/self/fd/{}", file.as_raw_fd());
                let link = |name: &Path| Ok(rustix::fs::linkat(CWD, &*source, CWD, name, AtFlags::SYMLINK_FOLLOW)?);
                builder(&prefix(&self.target))
                    .make_in(folder, link)?
                    .persist(&self.target)
                    .map_err(|error| error.error)?;
            }
            Staged::Named(file) => {
                file.persist(&self.target).map_err(|error| error.error)?;
            }
        }
        // The name is durable when its folder is.
        File::open(folder)?.sync_all()
    }
}

fn folder(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the beginning of a temporary name, which names the target.
fn prefix(target: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(target.file_name().unwrap_or_default());
    prefix.push(".");
    prefix
}

fn builder(prefix: &OsString) -> tempfile::Builder<'_, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).permissions(Permissions::from_mode(MODE));
    builder
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    fn named(target: &Path) -> Output {
        let file = builder(&prefix(target)).tempfile_in(folder(target)).unwrap();
        Output { target: target.to_owned(), staged: Staged::Named(file) }
    }

    /// A committed file replaces the old one, by both ways, and no other file is left.
    #[test]
    fn commit_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.tar");
        for make in [named as fn(&Path) -> Output, |target| Output::create(target).unwrap()] {
            std::fs::write(&target, "old").unwrap();
            let mut output = make(&target);
            output.file().write_all(b"new").unwrap();
            assert_eq!(std::fs::read(&target).unwrap(), b"old");
            output.commit().unwrap();
            assert_eq!(std::fs::read(&target).unwrap(), b"new");
            assert_eq!(names(folder.path()), ["out.tar"]);
        }
    }

    /// A file that is not committed leaves the old one and nothing else.
    #[test]
    fn drop_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.tar");
        std::fs::write(&target, "old").unwrap();
        for make in [named as fn(&Path) -> Output, |target| Output::create(target).unwrap()] {
            let mut output = make(&target);
            output.file().write_all(b"new").unwrap();
            drop(output);
            assert_eq!(std::fs::read(&target).unwrap(), b"old");
            assert_eq!(names(folder.path()), ["out.tar"]);
        }
    }

    /// Others may read the file as the umask allows: it is no secret as temporary files are.
    #[test]
    fn mode_is_that_of_any_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| folder.path().join(name).metadata().unwrap().permissions().mode();
        std::fs::write(folder.path().join("usual"), "").unwrap();
        for make in [named as fn(&Path) -> Output, |target| Output::create(target).unwrap()] {
            make(&folder.path().join("ours")).commit().unwrap();
            assert_eq!(mode("ours"), mode("usual"));
        }
    }
}
