//! Operations on paths: opening, making, linking, renaming and removing files and folders.

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, Mode, OFlags, linkat, mkdirat, openat, readlinkat, renameat, symlinkat, unlinkat};
use rustix::io::{Errno, retry_on_intr};

use super::descriptors::{APPEND, DSYNC, Descriptor, NONBLOCK, RSYNC, SYNC, writes};
use super::stats::FOLLOW;
use super::{Memory, Number, Wasi, longs, low, words};
use crate::paths::{self, Follow, Place};
use crate::rights::{
    FD_READ, FD_WRITE, PATH_CREATE_DIRECTORY, PATH_CREATE_FILE, PATH_FILESTAT_SET_SIZE, PATH_LINK_SOURCE,
    PATH_LINK_TARGET, PATH_OPEN, PATH_READLINK, PATH_REMOVE_DIRECTORY, PATH_RENAME_SOURCE, PATH_RENAME_TARGET,
    PATH_SYMLINK, PATH_UNLINK_FILE, Rights, WRITE,
};
use crate::working::{Choice, Intent};

/// Flags of `path_open`.
const CREATE: u32 = 1;
const DIRECTORY: u32 = 1 << 1;
const EXCLUSIVE: u32 = 1 << 2;
const TRUNCATE: u32 = 1 << 3;
/// Permissions of new files and folders before the process's own mask: those that C programs use.
const FILE_MODE: Mode = Mode::from_raw_mode(0o666);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777);

impl Wasi {
    /// Finds the place of a path that starts in a folder of the guest, if the guest has this right there.
    pub(super) fn find(
        &self,
        fd: u32,
        right: Rights,
        path: &[u8],
        follow: Follow,
        intent: Intent,
    ) -> Result<Place, Number> {
        let folder = self.table.get(fd)?;
        if !folder.is_folder() {
            return Err(Number::NOTDIR);
        }
        folder.check(right)?;
        if !self.has_root {
            return Ok(paths::locate_beneath(folder.as_fd(), path, follow)?);
        }
        let base = match &self.working {
            Some(working) if folder.either => match working.choose(path, follow, intent) {
                Choice::Working => folder.as_fd(),
                Choice::Root => working.root(),
                Choice::Unknown => return Err(Number::NOTCAPABLE),
            },
            _ => folder.as_fd(),
        };
        Ok(paths::locate(base, path, follow)?)
    }
}

/// `path_open`
pub(super) fn open(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, lookup, path, length, how, base, _, flags, opened] = longs(arguments);
    let (fd, how, flags) = (low(fd), low(how), u16::try_from(low(flags)).map_err(|_| Number::INVAL)?);
    let path = memory.path(low(path), low(length))?;
    let intent = match (how & CREATE != 0, how & EXCLUSIVE != 0) {
        (true, true) => Intent::New,
        (true, false) => Intent::Create,
        _ => Intent::Use,
    };
    // An exclusive open must find no link, so it follows none.
    let follow = Follow::look(low(lookup) & FOLLOW != 0 && how & EXCLUSIVE == 0);
    let folder = wasi.table.get(fd)?;
    let (inherited, read_only) = (folder.inheriting, folder.read_only);
    // A folder is opened for reading, even if a library asks for more.
    let asked = if how & DIRECTORY == 0 { base } else { base & !WRITE };
    if read_only && (writes(asked) || how & TRUNCATE != 0) {
        return Err(Number::ROFS);
    }
    let right = PATH_OPEN | if how & TRUNCATE != 0 { PATH_FILESTAT_SET_SIZE } else { 0 };
    // A guest that may make no file may still open an existing one.
    let makes = how & CREATE != 0 && (!read_only || how & EXCLUSIVE != 0);
    let right = right | if makes { PATH_CREATE_FILE } else { 0 };
    let place = wasi.find(fd, right, &path, follow, intent)?;
    let wanted = wanted(how, makes, asked, flags)?;
    let file = retry_on_intr(|| openat(&place.parent, &place.name, wanted, FILE_MODE));
    let file = match file {
        Err(Errno::NOENT) if read_only && how & CREATE != 0 => return Err(Number::ROFS),
        file => file?,
    };
    let mut descriptor = Descriptor::opened(file, inherited, read_only)?;
    descriptor.flags = flags;
    if !descriptor.is_folder() {
        descriptor.base &= !if writes(asked) { 0 } else { WRITE };
        descriptor.base &= !if reads(asked) { 0 } else { FD_READ };
    }
    let number = wasi.table.insert(descriptor)?;
    memory.put_word(low(opened), number)
}

/// Returns whether the rights ask to read a file. A file that is neither read nor written is opened for reading.
fn reads(rights: Rights) -> bool {
    rights & FD_READ != 0 || rights & FD_WRITE == 0
}

/// Returns the kernel's flags for a guest's request.
fn wanted(how: u32, makes: bool, asked: Rights, flags: u16) -> Result<OFlags, Number> {
    if how & DIRECTORY != 0 && how & (CREATE | EXCLUSIVE | TRUNCATE) != 0 {
        return Err(Number::INVAL);
    }
    let mut wanted = match (reads(asked), writes(asked) || how & TRUNCATE != 0) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (_, false) => OFlags::RDONLY,
    };
    // The path leads to no link any more, or to a link that must not be followed.
    wanted |= OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NOFOLLOW;
    for (is_wanted, flag) in [
        (makes, OFlags::CREATE),
        (makes && how & EXCLUSIVE != 0, OFlags::EXCL),
        (how & DIRECTORY != 0, OFlags::DIRECTORY),
        (how & TRUNCATE != 0, OFlags::TRUNC),
        (flags & APPEND != 0, OFlags::APPEND),
        (flags & NONBLOCK != 0, OFlags::NONBLOCK),
        (flags & DSYNC != 0, OFlags::DSYNC),
        (flags & (SYNC | RSYNC) != 0, OFlags::SYNC),
    ] {
        if is_wanted {
            wanted |= flag;
        }
    }
    Ok(wanted)
}

/// `path_create_directory`
pub(super) fn create_directory(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, path, length] = words(arguments);
    let path = memory.path(path, length)?;
    let place = wasi.find(fd, PATH_CREATE_DIRECTORY, &path, Follow::Never, Intent::New)?;
    Ok(mkdirat(&place.parent, &place.name, FOLDER_MODE)?)
}

/// `path_remove_directory`
pub(super) fn remove_directory(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, path, length] = words(arguments);
    let path = memory.path(path, length)?;
    let place = wasi.find(fd, PATH_REMOVE_DIRECTORY, &path, Follow::Never, Intent::Use)?;
    Ok(unlinkat(&place.parent, &place.name, AtFlags::REMOVEDIR)?)
}

/// `path_unlink_file`
pub(super) fn unlink_file(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, path, length] = words(arguments);
    let path = memory.path(path, length)?;
    let place = wasi.find(fd, PATH_UNLINK_FILE, &path, Follow::Never, Intent::Use)?;
    Ok(unlinkat(&place.parent, &place.name, AtFlags::empty())?)
}

/// `path_readlink`
pub(super) fn readlink(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, path, length, at, room, used] = words(arguments);
    let path = memory.path(path, length)?;
    let place = wasi.find(fd, PATH_READLINK, &path, Follow::BySlash, Intent::Use)?;
    let target = readlinkat(&place.parent, &place.name, Vec::new())?;
    let target = target.to_bytes();
    let fits = &target[..target.len().min(room as usize)];
    memory.put(at, fits)?;
    memory.put_count(used, fits.len())
}

/// `path_symlink`
pub(super) fn symlink(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [target, target_length, fd, path, length] = words(arguments);
    let (target, path) = (memory.path(target, target_length)?, memory.path(path, length)?);
    // A guest with some folders only makes no absolute link: it would lead other programs out of these folders.
    if target.starts_with(b"/") && !wasi.has_root {
        return Err(Number::NOTCAPABLE);
    }
    let place = wasi.find(fd, PATH_SYMLINK, &path, Follow::Never, Intent::New)?;
    Ok(symlinkat(OsStr::from_bytes(&target), &place.parent, &place.name)?)
}

/// `path_rename`
pub(super) fn rename(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [from, source, source_length, to, target, target_length] = words(arguments);
    let (source, target) = (memory.path(source, source_length)?, memory.path(target, target_length)?);
    let source = wasi.find(from, PATH_RENAME_SOURCE, &source, Follow::Never, Intent::Use)?;
    let target = wasi.find(to, PATH_RENAME_TARGET, &target, Follow::Never, Intent::Create)?;
    Ok(renameat(&source.parent, &source.name, &target.parent, &target.name)?)
}

/// `path_link`
pub(super) fn link(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [from, lookup, source, source_length, to, target, target_length] = words(arguments);
    let (source, target) = (memory.path(source, source_length)?, memory.path(target, target_length)?);
    let source = wasi.find(from, PATH_LINK_SOURCE, &source, Follow::look(lookup & FOLLOW != 0), Intent::Use)?;
    let target = wasi.find(to, PATH_LINK_TARGET, &target, Follow::Never, Intent::New)?;
    Ok(linkat(&source.parent, &source.name, &target.parent, &target.name, AtFlags::empty())?)
}
