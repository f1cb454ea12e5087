//! Operations on the contents of a file or a stream.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Advice, FallocateFlags, SeekFrom, fadvise, fallocate, fdatasync, fsync, ftruncate};
use rustix::io::Errno;

use super::descriptors::Descriptor;
use super::{Memory, Number, Wasi, longs, low, words};
use crate::rights::{FD_ADVISE, FD_ALLOCATE, FD_FILESTAT_SET_SIZE, FD_READ, FD_SEEK, FD_SYNC, FD_TELL, FD_WRITE};

/// `PIPE_BUF` of Linux: a pipe that `poll` reports ready takes this many bytes at once.
const PIPE_BUF: usize = 4096;

/// Runs `operation`, and repeats it after an interruption. Another process may share a stream and not want to wait for
/// it. A guest that wants to wait waits all the same. A guest that does not gets `EAGAIN` if the stream is not ready.
fn patiently<T>(
    descriptor: &Descriptor,
    flags: PollFlags,
    mut operation: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    if descriptor.is_impatient() {
        let now = Timespec::default();
        if poll(&mut [PollFd::new(descriptor, flags)], Some(&now))? == 0 {
            return Err(Errno::AGAIN);
        }
    }
    loop {
        match operation() {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if descriptor.is_patient() => match poll(&mut [PollFd::new(descriptor, flags)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            },
            answer => return answer,
        }
    }
}

/// `fd_read`
pub(super) fn read(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, parts, count, length] = words(arguments);
    let file = wasi.table.with(fd, FD_READ)?;
    let mut parts = memory.incoming(parts, count)?;
    let read = patiently(file, PollFlags::IN, || rustix::io::readv(file, &mut parts))?;
    memory.put_count(length, read)
}

/// `fd_write`
pub(super) fn write(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, parts, count, length] = words(arguments);
    let file = wasi.table.with(fd, FD_WRITE)?;
    // A pipe that is ready takes this much without waiting.
    let most = if file.is_impatient() { PIPE_BUF } else { usize::MAX };
    let parts = memory.outgoing(parts, count, most)?;
    let written = patiently(file, PollFlags::OUT, || rustix::io::writev(file, &parts))?;
    memory.put_count(length, written)
}

/// `fd_pread`
pub(super) fn pread(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, parts, count, offset, length] = longs(arguments);
    let file = wasi.table.with(low(fd), FD_READ | FD_SEEK)?;
    let mut parts = memory.incoming(low(parts), low(count))?;
    let read = patiently(file, PollFlags::IN, || rustix::io::preadv(file, &mut parts, offset))?;
    memory.put_count(low(length), read)
}

/// `fd_pwrite`
pub(super) fn pwrite(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, parts, count, offset, length] = longs(arguments);
    let file = wasi.table.with(low(fd), FD_WRITE | FD_SEEK)?;
    let parts = memory.outgoing(low(parts), low(count), usize::MAX)?;
    let written = patiently(file, PollFlags::OUT, || rustix::io::pwritev(file, &parts, offset))?;
    memory.put_count(low(length), written)
}

/// `fd_seek`
pub(super) fn seek(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, offset, whence, position] = longs(arguments);
    let offset = offset.cast_signed();
    let target = match low(whence) {
        0 => SeekFrom::Start(u64::try_from(offset).map_err(|_| Number::INVAL)?),
        1 => SeekFrom::Current(offset),
        2 => SeekFrom::End(offset),
        _ => return Err(Number::INVAL),
    };
    // A seek by 0 only asks for the position.
    let right = if target == SeekFrom::Current(0) { FD_TELL } else { FD_SEEK };
    let found = rustix::fs::seek(positioned(wasi.table.get(low(fd))?, right)?, target)?;
    memory.put_long(low(position), found)
}

/// `fd_tell`
pub(super) fn tell(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, position] = words(arguments);
    let found = rustix::fs::tell(positioned(wasi.table.get(fd)?, FD_TELL)?)?;
    memory.put_long(position, found)
}

/// Checks that a descriptor has a position. A descriptor without one returns the native error.
fn positioned(file: &Descriptor, right: crate::rights::Rights) -> Result<&Descriptor, Number> {
    let has_none = file.inheriting == 0 && !file.is_folder() && file.base & (FD_SEEK | FD_TELL) == 0;
    if has_none && rustix::fs::tell(file) == Err(Errno::SPIPE) {
        return Err(Errno::SPIPE.into());
    }
    file.check(right)
}

/// `fd_sync`
pub(super) fn sync(wasi: &mut Wasi, _: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd] = words(arguments);
    Ok(fsync(wasi.table.with(fd, FD_SYNC)?)?)
}

/// `fd_datasync`
pub(super) fn datasync(wasi: &mut Wasi, _: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd] = words(arguments);
    Ok(fdatasync(wasi.table.with(fd, FD_SYNC)?)?)
}

/// `fd_advise`
pub(super) fn advise(wasi: &mut Wasi, _: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, offset, length, advice] = longs(arguments);
    let advice = match low(advice) {
        0 => Advice::Normal,
        1 => Advice::Sequential,
        2 => Advice::Random,
        3 => Advice::WillNeed,
        4 => Advice::DontNeed,
        5 => Advice::NoReuse,
        _ => return Err(Number::INVAL),
    };
    let file = wasi.table.with(low(fd), FD_ADVISE)?;
    Ok(fadvise(file, offset, std::num::NonZeroU64::new(length), advice)?)
}

/// `fd_allocate`
pub(super) fn allocate(wasi: &mut Wasi, _: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, offset, length] = longs(arguments);
    let file = wasi.table.with(low(fd), FD_ALLOCATE)?;
    Ok(fallocate(file, FallocateFlags::empty(), offset, length)?)
}

/// `fd_filestat_set_size`
pub(super) fn set_size(wasi: &mut Wasi, _: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, size] = longs(arguments);
    Ok(ftruncate(wasi.table.with(low(fd), FD_FILESTAT_SET_SIZE)?, size)?)
}
