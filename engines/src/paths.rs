//! Resolves paths as the process itself would, where a guest has all of the process's root.
//!
//! Engines keep a path below the folder that it starts from: they refuse absolute links, and links that climb out of
//! the folder. That is right for a guest that has only some folders. A guest that has the whole root of its process, as
//! in a container, must find the same files as a native program. So the kernel resolves here each path that an engine
//! has refused. `openat2` opens the parent from the folder that the guest named, and follows links. This module follows
//! a link at the end by hand. The engine then gets the parent and a name in it that is no link. No path can lead out of
//! the process's root, which is the container's root. No path passes a magic link of `/proc`.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fstat, fstatfs, openat2, readlinkat, statat};
use rustix::io::Errno;

use crate::Preopen;

/// Maximum number of links at the end of a path: as many as Linux follows.
const LINKS: usize = 40;
/// The longest path that Linux takes.
pub(crate) const LONGEST: usize = 4096;
/// The file system of `/proc`.
const PROC: u64 = 0x9fa0;

/// The place that a path leads to.
#[derive(Debug)]
pub(crate) struct Place {
    /// The folder that contains it.
    pub(crate) parent: OwnedFd,
    /// Its name there, perhaps with slashes behind; `.` for the folder itself.
    pub(crate) name: OsString,
}

/// The treatment of a link at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// The call acts on the link itself, even with a slash behind it: it makes, renames or removes a name.
    Never,
    /// The call looks at the link itself. With a slash behind it, it looks at the folder that the link leads to.
    BySlash,
    /// The call looks at the file that the link leads to.
    Always,
}

impl Follow {
    /// Returns the treatment for a call that looks at a file, by its flag.
    pub(crate) fn look(follow: bool) -> Self {
        if follow { Self::Always } else { Self::BySlash }
    }
}

/// Returns whether a guest has all of the process's root and no other folder. Then no path is kept from it.
pub(crate) fn has_root(preopens: &[Preopen]) -> bool {
    matches!(preopens, [Preopen { host, guest, .. }] if host.as_os_str() == "/" && guest == "/")
}

/// Finds the place of a path that starts in `base`. The path may leave `base` only by links, unless a program's paths
/// start in `base`. `follow` says what happens to a link at the end.
///
/// # Errors
/// The system's error. A missing last name is no error.
pub(crate) fn locate(base: BorrowedFd<'_>, path: &[u8], follow: Follow) -> Result<Place, Errno> {
    if leaves(path) && !is_start(base)? {
        return Err(Errno::PERM);
    }
    walk(base, path, follow, Reach::Root)
}

/// Returns the error of a call that changes a name with a slash behind it, if the name is that of a link. The kernel
/// follows no link there. `makes` tells if the call makes the name.
#[cfg(feature = "wasmtime")]
pub(crate) fn refusal_of_link(base: BorrowedFd<'_>, path: &[u8], makes: bool) -> Option<Errno> {
    if !path.ends_with(b"/") {
        return None;
    }
    let place = locate(base, path, Follow::Never).ok()?;
    link(&place).ok()??;
    Some(if makes { Errno::EXIST } else { Errno::NOTDIR })
}

/// Finds the place of a path that starts in `base` and stays in it, links included. The place stays in it whatever others
/// do to its name meanwhile: a call that looks gets no name with a slash, which would make the kernel follow a new link.
///
/// # Errors
/// The system's error; `EPERM` if the path leads out. A missing last name is no error, unless a slash follows it and the
/// call looks.
#[cfg(any(feature = "wamr", feature = "wasmedge", feature = "wasmer"))]
pub(crate) fn locate_beneath(base: BorrowedFd<'_>, path: &[u8], follow: Follow) -> Result<Place, Errno> {
    walk(base, path, follow, Reach::Folder).map_err(|error| if error == Errno::XDEV { Errno::PERM } else { error })
}

/// The limit of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// The process's root.
    Root,
    /// The folder that the path starts from.
    #[cfg_attr(not(any(feature = "wamr", feature = "wasmedge", feature = "wasmer")), expect(dead_code))]
    Folder,
}

impl Reach {
    fn flags(self) -> ResolveFlags {
        match self {
            Self::Root => ResolveFlags::NO_MAGICLINKS,
            Self::Folder => ResolveFlags::NO_MAGICLINKS | ResolveFlags::BENEATH,
        }
    }
}

fn walk(base: BorrowedFd<'_>, path: &[u8], follow: Follow, reach: Reach) -> Result<Place, Errno> {
    let mut start: Option<OwnedFd> = None;
    let mut rest = path.to_vec();
    for _ in 0..LINKS {
        if rest.is_empty() {
            return Err(Errno::NOENT);
        }
        if rest.len() > LONGEST {
            return Err(Errno::NAMETOOLONG);
        }
        let from = start.as_ref().map_or(base, AsFd::as_fd);
        let place = split(from, &rest, reach)?;
        let has_slash = rest.ends_with(b"/");
        if follow == Follow::Never || (follow == Follow::BySlash && !has_slash) {
            return Ok(place);
        }
        let Some(target) = link(&place)? else {
            return if has_slash && reach == Reach::Folder { entered(&place) } else { Ok(place) };
        };
        let slashes = rest.len() - trimmed(&rest).len();
        let slash = b"/".repeat(slashes.min(1));
        rest = match reach {
            Reach::Root => {
                start = Some(place.parent);
                [&*target, &*slash].concat()
            }
            // An absolute link leaves the folder that the path starts from.
            Reach::Folder if target.starts_with(b"/") => return Err(Errno::XDEV),
            Reach::Folder => [&rest[..name_of(&rest)], &target, &slash].concat(),
        };
    }
    Err(Errno::LOOP)
}

/// Returns whether a path climbs out of its start folder by `..`, links aside. WASI has no such paths. They come from
/// libraries that know no list of folders.
fn leaves(path: &[u8]) -> bool {
    let mut depth = 0_usize;
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    path.starts_with(b"/")
}

/// Returns whether a program's paths start in this folder: the process's working directory, or its root. As in WASI, a
/// path stays in a folder that the guest has opened by itself, except by links.
fn is_start(base: BorrowedFd<'_>) -> Result<bool, Errno> {
    let own = fstat(base)?;
    let is = |path: &str| {
        let stat = statat(CWD, path, AtFlags::empty());
        stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (own.st_dev, own.st_ino))
    };
    Ok(is(".") || is("/"))
}

/// Returns the offset of the last name in a path.
fn name_of(path: &[u8]) -> usize {
    trimmed(path).iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1)
}

/// Opens the folder that contains the last part of a path.
fn split(from: BorrowedFd<'_>, path: &[u8], reach: Reach) -> Result<Place, Errno> {
    let (parent, name) = path.split_at(name_of(path).min(path.len()));
    let is_folder = matches!(trimmed(name), b"" | b"." | b"..");
    let (parent, name) = if is_folder { (path, &b"."[..]) } else { (parent, name) };
    Ok(Place { parent: folder(from, parent, reach)?, name: OsString::from_vec(name.to_vec()) })
}

/// Opens a folder. An empty path means `from`.
fn folder(from: BorrowedFd<'_>, path: &[u8], reach: Reach) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = if path.is_empty() { b"." } else { path };
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let from = if path.is_absolute() { CWD } else { from };
    again(|| openat2(from, path, flags, Mode::empty(), reach.flags()))
}

/// Opens the folder with a slash behind its name, unless it is a link.
fn entered(place: &Place) -> Result<Place, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = std::ffi::OsStr::from_bytes(trimmed(place.name.as_bytes()));
    let parent = rustix::fs::openat(&place.parent, name, flags, Mode::empty())?;
    Ok(Place { parent, name: ".".into() })
}

/// Reads the target of a link; `None` if the place is no link, or does not exist.
fn link(place: &Place) -> Result<Option<Vec<u8>>, Errno> {
    let name = trimmed(place.name.as_bytes());
    let name = std::ffi::OsStr::from_bytes(name);
    match statat(&place.parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
    }
    if u64::try_from(fstatfs(&place.parent)?.f_type) == Ok(PROC) {
        // The text of a magic link is no path.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        again(|| openat2(&place.parent, name, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS))?;
    }
    match readlinkat(&place.parent, name, Vec::new()) {
        Ok(target) => Ok(Some(target.into_bytes())),
        // It was replaced meanwhile.
        Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes slashes at the end.
pub(crate) fn trimmed(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    &path[..end]
}

/// Repeats a call that a signal or a concurrent rename has interrupted.
pub(crate) fn again<T>(mut ask: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match ask() {
            Err(Errno::INTR | Errno::AGAIN) => {}
            answer => return answer,
        }
    }
}

#[cfg(test)]
#[path = "paths/tests.rs"]
mod tests;
