//! An open file of a guest's folder. Nothing is buffered, so what a guest has written is there whenever it ends.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::fs::{Stat, Timespec, Timestamps, UTIME_OMIT};
use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};
use wasmer_wasix::virtual_fs::{FsError, VirtualFile};

use super::folders::{Folder, failed, nanoseconds};

/// A file, and where it was opened.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: File,
    folder: Folder,
    path: PathBuf,
    position: u64,
}

impl OpenFile {
    pub(super) fn new(file: File, folder: Folder, path: PathBuf) -> Self {
        Self { file, folder, path, position: 0 }
    }

    fn stat(&self) -> Option<Stat> {
        rustix::fs::fstat(&self.file).ok()
    }
}

fn retried(mut operation: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl AsyncRead for OpenFile {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let free = buffer.initialize_unfilled();
        let read = retried(|| self.file.read(free));
        Poll::Ready(read.map(|read| buffer.advance(read)))
    }
}

impl AsyncWrite for OpenFile {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(retried(|| self.file.write(bytes)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncSeek for OpenFile {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        self.position = match self.file.seek(position) {
            // A pipe or a device has no position; it is read and written in its order.
            Err(error) if error.kind() == io::ErrorKind::NotSeekable => 0,
            result => result?,
        };
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position))
    }
}

impl VirtualFile for OpenFile {
    fn last_accessed(&self) -> u64 {
        self.stat().map_or(0, |stat| nanoseconds(stat.st_atime, stat.st_atime_nsec))
    }

    fn last_modified(&self) -> u64 {
        self.stat().map_or(0, |stat| nanoseconds(stat.st_mtime, stat.st_mtime_nsec))
    }

    fn created_time(&self) -> u64 {
        self.stat().map_or(0, |stat| nanoseconds(stat.st_ctime, stat.st_ctime_nsec))
    }

    fn set_times(&mut self, accessed: Option<u64>, modified: Option<u64>) -> Result<(), FsError> {
        self.folder.writable()?;
        let time = |nanoseconds: Option<u64>| match nanoseconds {
            Some(nanoseconds) => Timespec {
                tv_sec: (nanoseconds / 1_000_000_000).cast_signed(),
                tv_nsec: (nanoseconds % 1_000_000_000).cast_signed(),
            },
            None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        };
        let times = Timestamps { last_access: time(accessed), last_modification: time(modified) };
        rustix::fs::futimens(&self.file, &times).map_err(failed)
    }

    fn size(&self) -> u64 {
        self.stat().map_or(0, |stat| stat.st_size.cast_unsigned())
    }

    fn set_len(&mut self, size: u64) -> Result<(), FsError> {
        self.folder.writable()?;
        rustix::fs::ftruncate(&self.file, size).map_err(failed)
    }

    fn unlink(&mut self) -> Result<(), FsError> {
        self.folder.unlink(&self.path)
    }

    fn poll_read_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let left = self.size().saturating_sub(self.position);
        Poll::Ready(Ok(usize::try_from(left).unwrap_or(usize::MAX)))
    }

    fn poll_write_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(64 << 10))
    }
}
