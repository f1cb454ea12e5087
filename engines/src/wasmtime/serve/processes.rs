//! The processes of a server, one for each core.
//!
//! Each request has pages of memory made usable for it and taken back again. For threads that share their memory each such change
//! interrupts the cores of all the others: two threads answered hardly more requests than one. So cores do not get threads of one process
//! but a process each, forked from the one that has the container, which accepts connections and hands them out.
//!
//! That one does not serve itself. What an instance leaves in the memory of the pool is found by asking the system for the pages that were
//! written to, of the process that made the pool, which was another, before the container was; by wasmtime's `pthread_atfork` each process that
//! is forked here asks about its own.
//!
//! A process is told to stop, or that the first one is gone, by the end of the channel on which it gets connections. The first
//! one learns in the same way that another is gone, and ends as that did: what has killed one of them must not go unnoticed.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::thread;

use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::io::Interest;

use super::PAUSE;
use crate::TRAPPED;

/// What the first process has for itself: other processes that are forked from it must not hold it.
pub(super) struct First {
    /// Where it accepts connections. There is one as long as the first process has it.
    pub(super) listener: TcpListener,
    /// The other processes.
    pub(super) others: Vec<Other>,
}

/// Another process of the server, as the first one has it.
pub(super) struct Other {
    pid: Pid,
    channel: UnixStream,
}

/// Another process of the server, to which connections are given.
pub(super) struct Taker {
    pid: Pid,
    channel: tokio::net::UnixStream,
}

/// The way on which another process gets its connections.
pub(super) struct Given(UnixStream);

/// A process that was told to stop.
pub(super) struct Stopping(Pid);

impl First {
    /// Takes the socket on which it listens.
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, others: Vec::new() }
    }

    /// Forks a process that does `work` on a thread of its own and ends with the code that it returns.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn fork(mut self, work: impl FnOnce(Given) -> u8 + Send) -> io::Result<Self> {
        let (channel, given) = UnixStream::pair()?;
        // SAFETY: the process's other threads only wait (`Program::run` asks for that), so none of them holds a lock that would
        // never be given back; the new process ends without coming back.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                self.others.push(Other { pid: child, channel });
                Ok(self)
            }
            ForkResult::Child => {
                // A channel, or a socket that listens, ends when nobody holds it.
                drop((self, channel));
                end(Given(given), work)
            }
        }
    }
}

impl Other {
    /// Makes it ready to be given connections, in a runtime.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn ready(self) -> io::Result<Taker> {
        self.channel.set_nonblocking(true)?;
        Ok(Taker { pid: self.pid, channel: self.channel.try_into()? })
    }
}

/// Does the work of a forked process, and ends it.
fn end(given: Given, work: impl FnOnce(Given) -> u8 + Send) -> ! {
    // If the first one is killed, nobody is left to end this one. Without it, the channel's end does, only later.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // A new thread: generators of random numbers, which are a thread's own, must not be the same in two processes.
    let code = thread::scope(|scope| {
        let thread = thread::Builder::new().name("guest".to_owned()).spawn_scoped(scope, || work(given));
        match thread.map(thread::ScopedJoinHandle::join) {
            Ok(Ok(code)) => code,
            // It has said why.
            Ok(Err(_)) => TRAPPED,
            Err(error) => {
                super::tell(&format!("error: cannot start a thread: {error}"));
                TRAPPED
            }
        }
    });
    // SAFETY: _exit ends the process; no code of ours runs after it.
    unsafe { libc::_exit(i32::from(code)) }
}

impl Taker {
    /// Gives a connection away; back comes one that it cannot take now.
    pub(super) fn give(&self, connection: tokio::net::TcpStream) -> Option<tokio::net::TcpStream> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        let descriptors = [connection.as_fd()];
        if !message.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Some(connection);
        }
        let sent = sendmsg(&self.channel, &[io::IoSlice::new(&[0])], &mut message, SendFlags::NOSIGNAL);
        sent.is_err().then_some(connection)
    }

    /// Waits until it is gone, and returns the exit code that says how.
    pub(super) async fn gone(&self) -> u8 {
        // Nothing is ever sent this way. If it cannot be waited for, that comes out when a connection is given.
        if self.channel.readable().await.is_err() {
            std::future::pending::<Infallible>().await;
        }
        code(self.pid)
    }

    /// Tells it to finish what it has begun.
    pub(super) fn stop(self) -> Stopping {
        Stopping(self.pid)
    }
}

impl Stopping {
    /// Waits for its end, and returns its exit code.
    pub(super) fn code(&self) -> u8 {
        code(self.0)
    }
}

/// Waits for a process, and returns its exit code as a shell would report it.
fn code(pid: Pid) -> u8 {
    let code = loop {
        match waitpid(pid, None) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(WaitStatus::Exited(_, code)) => break code,
            Ok(WaitStatus::Signaled(_, signal, _)) => break 128 + signal as i32,
            // It can only have ended.
            Ok(_) | Err(_) => break TRAPPED.into(),
        }
    };
    u8::try_from(code).unwrap_or(TRAPPED)
}

impl Given {
    /// Makes it ready to be waited for, in a runtime.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn ready(self) -> io::Result<Connections> {
        self.0.set_nonblocking(true)?;
        Ok(Connections(self.0.try_into()?))
    }
}

/// The connections that a process gets.
pub(super) struct Connections(tokio::net::UnixStream);

impl Connections {
    /// Waits for the next one; `None` if there will be no more.
    pub(super) async fn next(&self) -> Option<TcpStream> {
        loop {
            self.0.readable().await.ok()?;
            // One that came when there is no descriptor for it would be lost.
            while rustix::io::fcntl_dupfd_cloexec(&self.0, 0).is_err() {
                tokio::time::sleep(PAUSE).await;
            }
            match self.0.try_io(Interest::READABLE, || Ok(receive(&self.0)?)) {
                Ok(Received::Connection(connection)) => return Some(connection),
                Ok(Received::Nothing) => {}
                Ok(Received::End) => return None,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => return None,
            }
        }
    }
}

enum Received {
    Connection(TcpStream),
    /// A message that has lost its connection.
    Nothing,
    End,
}

fn receive(channel: &tokio::net::UnixStream) -> rustix::io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let message = recvmsg(channel, &mut [io::IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if message.bytes == 0 {
        return Ok(Received::End);
    }
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = part
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(Received::Connection(TcpStream::from(descriptor)));
        }
    }
    Ok(Received::Nothing)
}
