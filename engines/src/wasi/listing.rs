//! The contents of a folder.

use std::mem::MaybeUninit;

use rustix::fs::{AtFlags, FileType, RawDir, SeekFrom, statat};
use rustix::io::Errno;

use super::descriptors::kind;
use super::{Memory, Number, Wasi, longs, low};
use crate::rights::FD_READDIR;

/// Bytes of entries that the engine asks the kernel for at once.
const ROOM: usize = 8 << 10;

/// `fd_readdir`: the guest's places in a folder are the kernel's own. An entry that does not fit is cut off, so that
/// the guest knows that there is more.
pub(super) fn readdir(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, at, room, place, used] = longs(arguments);
    let descriptor = wasi.table.get(low(fd))?;
    if !descriptor.is_folder() {
        return Err(Number::NOTDIR);
    }
    let folder = descriptor.check(FD_READDIR)?;
    let buffer = memory.bytes_mut(low(at), low(room))?;
    rustix::fs::seek(folder, SeekFrom::Start(place))?;
    let mut entries = [MaybeUninit::uninit(); ROOM];
    let mut entries = RawDir::new(folder, &mut entries);
    let mut filled = 0;
    while filled < buffer.len() {
        let Some(entry) = entries.next() else { break };
        let entry = entry?;
        let name = entry.file_name();
        let found = match entry.file_type() {
            FileType::Unknown => match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                // The entry was removed meanwhile.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            },
            found => found,
        };
        let length = u32::try_from(name.to_bytes().len()).map_err(|_| Number::OVERFLOW)?;
        let head = [
            &entry.next_entry_cookie().to_le_bytes()[..],
            &entry.ino().to_le_bytes(),
            &length.to_le_bytes(),
            &[kind::of(found), 0, 0, 0],
        ];
        for part in head.into_iter().chain([name.to_bytes()]) {
            let fits = part.len().min(buffer.len() - filled);
            buffer[filled..filled + fits].copy_from_slice(&part[..fits]);
            filled += fits;
        }
    }
    memory.put_count(low(used), filled)
}
