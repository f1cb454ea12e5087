//! Which file a path means that may start in the working directory or in `/`.
//!
//! WASI has no working directory, and nearly all programs carry a C library (wasi-libc) that takes `/` and `./` off the beginning of a
//! path: `/data/x` and `data/x` arrive as the same `data/x`, in the last folder whose name is empty after the same treatment. Where the
//! working directory is not `/`, that folder is one of its own, after those for libraries that can tell: see [`crate::preopens`]. What
//! comes there is looked up in both places. If one place alone has what is needed, it is meant. If both have, and that is not the same
//! file, nobody knows, and the call is refused, with a line on standard error: the wrong file is never opened silently.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
#[cfg(any(feature = "wamr", feature = "wasmedge", feature = "wasmer"))]
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use crate::paths::again;

/// What a call wants of what a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// It has to be there.
    Use,
    /// What it is like is all that is asked for.
    Look,
    /// A file that is made if it is not there.
    Create,
    /// It must not be there.
    New,
}

/// Which of the two is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The one in the working directory.
    Working,
    /// The one in `/`.
    Root,
    /// Nobody knows.
    Unknown,
}

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

    /// Chooses; tells on standard error if nobody knows.
    pub(crate) fn choose(&self, path: &[u8], follow: bool, intent: Intent) -> Choice {
        let choice = self.chosen(path, follow, intent);
        if choice == Choice::Unknown && self.told.lock().is_ok_and(|mut told| told.insert(path.to_vec())) {
            let path = Path::new(OsStr::from_bytes(path));
            eprintln!(
                "prewasi: refused {path:?}: it may be {:?} or {:?}, and the program's library does not tell which it means; give the \
                 container another working directory, or remove one of them",
                self.name.join(path),
                Path::new("/").join(path),
            );
        }
        choice
    }

    fn chosen(&self, path: &[u8], follow: bool, intent: Intent) -> Choice {
        // An absolute path is from a library that takes nothing off, and one that climbs is relative.
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
        let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&b"."[..], |slash| &path[..slash]);
        let has_parent = |from: &OwnedFd| look(from, parent, true).is_ok();
        // That something cannot be looked at does not mean that it is not there.
        let there = |found: &Result<OwnedFd, Errno>| !matches!(found, Err(Errno::NOENT | Errno::NOTDIR));
        // Where a link is, nothing else is made, wherever it leads.
        let follow = follow && !makes;
        let (own, other) = (look(&self.folder, path, follow), look(&self.root, path, follow));
        match (there(&own), there(&other)) {
            (true, false) => Choice::Working,
            (false, true) if makes && has_parent(&self.folder) => match intent {
                // A program that makes all folders of a path must be told that the first is there.
                Intent::New if is_folder(&other) => Choice::Root,
                _ => Choice::Unknown,
            },
            (false, true) => Choice::Root,
            (true, true) if own.as_ref().ok().and_then(identity) == other.as_ref().ok().and_then(identity) => {
                Choice::Working
            }
            (true, true) if intent == Intent::Look && is_folder(&own) && is_folder(&other) => Choice::Working,
            (true, true) => Choice::Unknown,
            // A file in the place of a folder says more than that nothing is there.
            (false, false) if !makes => match (&own, &other) {
                (Err(Errno::NOENT), Err(Errno::NOTDIR)) => Choice::Root,
                _ => Choice::Working,
            },
            (false, false) => match (has_parent(&self.folder), has_parent(&self.root)) {
                (false, true) => Choice::Root,
                // Nobody makes files in `/`.
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

    /// What one place alone has is meant; what both have is refused, unless it is the same.
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
        let chosen = |path: &str, intent| working.chosen(path.as_bytes(), true, intent);
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
    }
}
