//! Attributes of files.

use rustix::fs::{
    AtFlags, FileType, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fstat, futimens, statat, utimensat,
};

use super::descriptors::kind;
use super::{Memory, Number, Wasi, longs, low, words};
use crate::paths::Follow;
use crate::rights::{FD_FILESTAT_GET, FD_FILESTAT_SET_TIMES, PATH_FILESTAT_GET, PATH_FILESTAT_SET_TIMES};
use crate::working::Intent;

/// The flag by which a call follows a link at the end of a path.
pub(super) const FOLLOW: u32 = 1;

/// `fd_filestat_get`
pub(super) fn get(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, found] = words(arguments);
    let stat = fstat(wasi.table.with(fd, FD_FILESTAT_GET)?)?;
    memory.put(found, &bytes(&stat))
}

/// `path_filestat_get`
pub(super) fn of_path(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, lookup, path, length, found] = words(arguments);
    let path = memory.path(path, length)?;
    let place = wasi.find(fd, PATH_FILESTAT_GET, &path, Follow::look(lookup & FOLLOW != 0), Intent::Look)?;
    let stat = statat(&place.parent, &place.name, AtFlags::SYMLINK_NOFOLLOW)?;
    memory.put(found, &bytes(&stat))
}

/// Returns the attributes in WASI's layout.
#[allow(clippy::useless_conversion, reason = "the types of some numbers differ between architectures")]
fn bytes(stat: &Stat) -> [u8; 64] {
    let mut bytes = [0; 64];
    let numbers = [
        u64::from(stat.st_dev),
        u64::from(stat.st_ino),
        kind::of(FileType::from_raw_mode(stat.st_mode)).into(),
        u64::from(stat.st_nlink),
        stat.st_size.cast_unsigned(),
        nanoseconds(stat.st_atime, stat.st_atime_nsec),
        nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
    ];
    for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

/// Returns a time in nanoseconds since 1970; 0 for an earlier time.
fn nanoseconds(seconds: i64, nanoseconds: impl TryInto<u64>) -> u64 {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds.try_into().unwrap_or(0))
}

/// `fd_filestat_set_times`
pub(super) fn set_times(wasi: &mut Wasi, _: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, accessed, modified, which] = longs(arguments);
    let file = wasi.table.with(low(fd), FD_FILESTAT_SET_TIMES)?;
    Ok(futimens(file, &times(accessed, modified, low(which))?)?)
}

/// `path_filestat_set_times`
pub(super) fn set_times_of_path(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, lookup, path, length, accessed, modified, which] = longs(arguments);
    let path = memory.path(low(path), low(length))?;
    let times = times(accessed, modified, low(which))?;
    let follow = Follow::look(low(lookup) & FOLLOW != 0);
    let place = wasi.find(low(fd), PATH_FILESTAT_SET_TIMES, &path, follow, Intent::Use)?;
    Ok(utimensat(&place.parent, &place.name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Returns the times to set, from the guest's values and flags.
fn times(accessed: u64, modified: u64, which: u32) -> Result<Timestamps, Number> {
    let time = |nanoseconds: u64, flags: u32| match flags {
        0b00 => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }),
        0b01 => Ok(Timespec {
            tv_sec: (nanoseconds / 1_000_000_000).cast_signed(),
            tv_nsec: (nanoseconds % 1_000_000_000).cast_signed(),
        }),
        0b10 => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }),
        _ => Err(Number::INVAL),
    };
    Ok(Timestamps { last_access: time(accessed, which & 0b11)?, last_modification: time(modified, which >> 2)? })
}
