//! A guest's stdin, stdout and stderr: straight to the descriptor, with nothing in between that could be lost or
//! reordered.
//!
//! A read or write returns when it is done: a guest has one thread, and would wait for it anyway. Only when a guest asks
//! whether there is something to read does a thread wait for it, which does not keep the process from ending.

use std::io::{self, ErrorKind, SeekFrom};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};
use wasmer_wasix::virtual_fs::{FsError, VirtualFile};

/// A descriptor of the process that a guest reads from or writes to.
#[derive(Debug)]
pub(super) struct Stream {
    fd: BorrowedFd<'static>,
    number: u32,
    waiting: Arc<Mutex<Waiting>>,
}

/// Who is to be woken when there is something to read.
#[derive(Debug, Default)]
struct Waiting {
    waker: Option<Waker>,
    /// A thread waits already.
    thread: bool,
}

impl Stream {
    /// Returns the process's stdin.
    pub(super) fn stdin() -> Self {
        Self::new(rustix::stdio::stdin(), 0)
    }

    /// Returns the process's stdout.
    pub(super) fn stdout() -> Self {
        Self::new(rustix::stdio::stdout(), 1)
    }

    /// Returns the process's stderr.
    pub(super) fn stderr() -> Self {
        Self::new(rustix::stdio::stderr(), 2)
    }

    fn new(fd: BorrowedFd<'static>, number: u32) -> Self {
        Self { fd, number, waiting: Arc::default() }
    }

    /// Wakes the waker when there is something to read.
    fn wake(&self, waker: &Waker) -> io::Result<()> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.waker = Some(waker.clone());
        if !waiting.thread {
            let (fd, shared) = (self.fd, Arc::clone(&self.waiting));
            std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
                // Whatever went wrong, the one that is woken sees it when it reads.
                let _ = wait(fd, PollFlags::IN, None);
                let mut waiting = shared.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.thread = false;
                if let Some(waker) = waiting.waker.take() {
                    waker.wake();
                }
            })?;
            waiting.thread = true;
        }
        Ok(())
    }
}

/// Waits until a descriptor is ready, and says whether it is.
fn wait(fd: BorrowedFd<'_>, flags: PollFlags, timeout: Option<&Timespec>) -> io::Result<bool> {
    loop {
        match poll(&mut [PollFd::new(&fd, flags)], timeout) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Does it, again after an interruption, and when the descriptor (which may be shared with a process that does not want
/// to wait) is ready.
fn patiently(
    fd: BorrowedFd<'_>,
    flags: PollFlags,
    mut operation: impl FnMut() -> Result<usize, Errno>,
) -> io::Result<usize> {
    loop {
        match operation() {
            Ok(number) => return Ok(number),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                wait(fd, flags, None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let free = buffer.initialize_unfilled();
        let read = patiently(self.fd, PollFlags::IN, || rustix::io::read(self.fd, &mut *free));
        Poll::Ready(read.map(|read| buffer.advance(read)))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut written = 0;
        while written < bytes.len() {
            written += match patiently(self.fd, PollFlags::OUT, || rustix::io::write(self.fd, &bytes[written..])) {
                Ok(written) => written,
                Err(_) if written > 0 => break,
                Err(error) => return Poll::Ready(Err(error)),
            };
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncSeek for Stream {
    fn start_seek(self: Pin<&mut Self>, _: SeekFrom) -> io::Result<()> {
        Err(ErrorKind::NotSeekable.into())
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(0))
    }
}

impl VirtualFile for Stream {
    fn last_accessed(&self) -> u64 {
        0
    }

    fn last_modified(&self) -> u64 {
        0
    }

    fn created_time(&self) -> u64 {
        0
    }

    fn size(&self) -> u64 {
        0
    }

    fn set_len(&mut self, _: u64) -> Result<(), FsError> {
        Err(FsError::PermissionDenied)
    }

    fn unlink(&mut self) -> Result<(), FsError> {
        Err(FsError::PermissionDenied)
    }

    fn get_special_fd(&self) -> Option<u32> {
        Some(self.number)
    }

    fn poll_read_ready(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if wait(self.fd, PollFlags::IN, Some(&Timespec::default()))? {
            // At the end there is nothing more, but a read returns at once.
            return Poll::Ready(Ok(rustix::io::ioctl_fionread(self.fd).map_or(1, |bytes| bytes as usize)));
        }
        self.wake(context.waker())?;
        Poll::Pending
    }

    fn poll_write_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // A write waits for its reader.
        Poll::Ready(Ok(64 << 10))
    }
}
