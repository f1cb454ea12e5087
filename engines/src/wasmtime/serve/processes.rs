//! The processes of a server: an acceptor, and a worker for each core.
//!
//! For each request, pages of memory are mapped and unmapped. With threads that share their memory, each such change interrupts the cores
//! of all other threads: two threads answered hardly more requests than one. So each core gets a process instead of a thread. The workers
//! are forked from the acceptor, which is the container's process; it accepts connections and passes them on.
//!
//! The acceptor does not serve requests itself. To clean the memory of the pool, wasmtime asks the kernel for the written pages of the
//! process that made the pool. That process was another one, before the container existed. wasmtime's `pthread_atfork` handler makes each
//! forked worker ask about its own pages.
//!
//! The end of the channel with connections tells a worker to stop; it also ends when the acceptor dies. In the same way the acceptor
//! notices the death of a worker, and ends with the worker's exit code. The death of one process must not go unnoticed.

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

/// The acceptor's own descriptors: workers that are forked from it must not hold them.
pub(super) struct First {
    /// The listening socket. It lives as long as the acceptor holds it.
    pub(super) listener: TcpListener,
    /// The workers.
    pub(super) others: Vec<Other>,
}

/// A worker, as the acceptor holds it.
pub(super) struct Other {
    pid: Pid,
    channel: UnixStream,
}

/// A worker that can take connections.
pub(super) struct Taker {
    pid: Pid,
    channel: tokio::net::UnixStream,
}

/// A worker's end of the channel with connections.
pub(super) struct Given(UnixStream);

/// A worker that was told to stop.
pub(super) struct Stopping(Pid);

impl First {
    /// Takes the listening socket.
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, others: Vec::new() }
    }

    /// Forks a worker that does `work` on a separate thread and ends with the returned exit code.
    ///
    /// # Errors
    /// The channel or the process cannot be made.
    pub(super) fn fork(mut self, work: impl FnOnce(Given) -> u8 + Send) -> io::Result<Self> {
        let (channel, given) = UnixStream::pair()?;
        // SAFETY: the process's other threads only wait (`Program::run` requires that), so none of them holds a lock that would never be
        // released. The worker never returns from this function.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                self.others.push(Other { pid: child, channel });
                Ok(self)
            }
            ForkResult::Child => {
                // A channel, or a listening socket, ends when no process holds it.
                drop((self, channel));
                end(Given(given), work)
            }
        }
    }
}

impl Other {
    /// Prepares the worker to take connections. Must be called in a runtime.
    ///
    /// # Errors
    /// The runtime cannot watch the channel.
    pub(super) fn ready(self) -> io::Result<Taker> {
        self.channel.set_nonblocking(true)?;
        Ok(Taker { pid: self.pid, channel: self.channel.try_into()? })
    }
}

/// Does the work of a worker, and ends its process.
fn end(given: Given, work: impl FnOnce(Given) -> u8 + Send) -> ! {
    // If the acceptor is killed, no process is left to end this worker. Without this call the end of the channel ends it, only later.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // A new thread: the thread-local random number generators of two processes must differ.
    let code = thread::scope(|scope| {
        let thread = thread::Builder::new().name("guest".to_owned()).spawn_scoped(scope, || work(given));
        match thread.map(thread::ScopedJoinHandle::join) {
            Ok(Ok(code)) => code,
            // The panic has printed its reason.
            Ok(Err(_)) => TRAPPED,
            Err(error) => {
                super::tell(&format!("error: cannot start a thread: {error}"));
                TRAPPED
            }
        }
    });
    // SAFETY: _exit ends the process; no code of this program runs after it.
    unsafe { libc::_exit(i32::from(code)) }
}

impl Taker {
    /// Passes a connection to the worker; returns the connection if the worker cannot take it now.
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

    /// Waits for the worker's end, and returns its exit code.
    pub(super) async fn gone(&self) -> u8 {
        // A worker sends nothing on the channel. An error of this wait shows again when a connection is passed.
        if self.channel.readable().await.is_err() {
            std::future::pending::<Infallible>().await;
        }
        code(self.pid)
    }

    /// Tells the worker to finish its requests and stop.
    pub(super) fn stop(self) -> Stopping {
        Stopping(self.pid)
    }
}

impl Stopping {
    /// Waits for the worker's end, and returns its exit code.
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
            // waitpid without flags reports ended processes only.
            Ok(_) | Err(_) => break TRAPPED.into(),
        }
    };
    u8::try_from(code).unwrap_or(TRAPPED)
}

impl Given {
    /// Prepares the channel for waiting. Must be called in a runtime.
    ///
    /// # Errors
    /// The runtime cannot watch the channel.
    pub(super) fn ready(self) -> io::Result<Connections> {
        self.0.set_nonblocking(true)?;
        Ok(Connections(self.0.try_into()?))
    }
}

/// The connections that a worker receives.
pub(super) struct Connections(tokio::net::UnixStream);

impl Connections {
    /// Waits for the next connection; `None` if there will be no more.
    pub(super) async fn next(&self) -> Option<TcpStream> {
        loop {
            self.0.readable().await.ok()?;
            // A connection that arrives while no descriptor is free would be lost.
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
