//! The zygote: the process from which all helpers are forked.
//!
//! A helper, and the container that it makes, begin with a copy of the forked process's memory, and wasm never executes another program.
//! So helpers are not forked from the daemon, which knows all containers of the pod. At its start, before it knows a container, the
//! daemon forks the zygote. The zygote never receives information about containers: it gets descriptors and forks, and the helper reads
//! its assignment from one of the descriptors.
//!
//! The zygote has one thread and no runtime. A helper is its sibling: a child of the daemon, like the processes of containers. The zygote
//! ends with the daemon. The daemon ends with the zygote: a new fork of the daemon would know containers.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, Pid, fork};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

use super::order::{Order, die_with};
use super::work;
use crate::engine::EngineConstructor;
use crate::telemetry::log;
use crate::telemetry::trace::wipe_headers;

/// The number of the zygote's socket, and in a helper of its end of the pipe, next to [`log::FD`].
pub(super) const CONTROL_FD: i32 = log::FD - 1;
/// Maximum number of descriptors in a message.
const DESCRIPTORS: usize = 2;

/// The zygote, before the daemon has a runtime.
pub(crate) struct Zygote {
    pid: i32,
    socket: OwnedFd,
}

/// The daemon's handle of the zygote.
pub(super) struct Forks(Mutex<AsyncFd<OwnedFd>>);

/// The reason why no helper was forked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForkError {
    #[error("cannot fork a helper: the zygote, from which helpers are forked, has ended, and the shim ends with it")]
    Ended,
    #[error("cannot reach the zygote, from which helpers are forked")]
    Socket(#[source] io::Error),
    #[error("cannot fork a helper")]
    Fork(#[source] io::Error),
}

impl Zygote {
    /// Forks the zygote. The calling process must have one thread and know no container.
    ///
    /// # Errors
    /// The socket pair or the process cannot be made.
    pub(crate) fn start(engine: EngineConstructor) -> io::Result<Self> {
        let (socket, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        let daemon = nix::unistd::getpid();
        // SAFETY: this process has one thread, so the child finds no lock held and may do all that a process may do.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self { pid: child.as_raw(), socket }),
            ForkResult::Child => {
                let served = settle(daemon, &other).and_then(|()| serve(daemon, engine));
                if let Err(error) = &served {
                    tracing::error!(%error, "the zygote ends");
                }
                // SAFETY: _exit runs no destructors: the values here belong to the parent.
                unsafe { libc::_exit(i32::from(served.is_err())) }
            }
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }
}

impl Forks {
    /// Must be called in the runtime.
    ///
    /// # Errors
    /// The runtime cannot watch the socket.
    pub(super) fn new(zygote: Zygote) -> io::Result<Self> {
        // SAFETY: the descriptor belongs to the value, which gives the same one each time and closes it when dropped.
        Ok(Self(Mutex::new(unsafe { AsyncFd::register(zygote.socket) }?)))
    }

    /// Has a helper forked and returns its pid. The future must not be dropped halfway: the next call would receive this call's answer.
    ///
    /// # Errors
    /// [`ForkError`].
    pub(super) async fn fork(&self, order: &Order) -> Result<i32, ForkError> {
        let socket = self.0.lock().await;
        let handed = [order.assignment.as_fd(), order.report.as_fd()];
        socket.async_io(Interest::WRITABLE, |socket| hand_over(socket, &handed)).await.map_err(lost)?;
        let mut answer = [0; size_of::<i32>()];
        let take = |socket: &OwnedFd| Ok(recv(socket, &mut answer, RecvFlags::empty())?.0);
        match socket.async_io(Interest::READABLE, take).await.map_err(lost)? {
            0 => Err(ForkError::Ended),
            _ => match i32::from_ne_bytes(answer) {
                pid @ 1.. => Ok(pid),
                errno => Err(ForkError::Fork(io::Error::from_raw_os_error(-errno))),
            },
        }
    }
}

fn lost(error: io::Error) -> ForkError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ForkError::Ended,
        _ => ForkError::Socket(error),
    }
}

fn hand_over(socket: &OwnedFd, handed: &[BorrowedFd<'_>; DESCRIPTORS]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(handed));
    // A message without a byte would look like the end of the stream.
    sendmsg(socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Separates a copy of the daemon from it. Closes all descriptors except the standard ones, the socket and the log. Drops secrets, and
/// sets up signals for helpers and containers.
fn settle(daemon: Pid, socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: neither call has effects on memory, and the values that own the descriptors are never used or dropped in this
    // process.
    unsafe {
        if libc::dup2(socket.as_raw_fd(), CONTROL_FD) < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::syscall(libc::SYS_close_range, log::FD + 1, libc::c_int::MAX, 0);
    }
    die_with(daemon)?;
    wipe_headers();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    // The daemon was started in a bundle, which will be removed some day.
    std::env::set_current_dir("/")
}

/// Forks helpers until the daemon has ended.
fn serve(daemon: Pid, engine: EngineConstructor) -> io::Result<()> {
    // SAFETY: `settle` has put the socket there, and nothing closes it in this process.
    let socket = unsafe { BorrowedFd::borrow_raw(CONTROL_FD) };
    while let Some(handed) = take_over(socket)? {
        let answer = match <[OwnedFd; DESCRIPTORS]>::try_from(handed) {
            // Descriptors that exceeded this process's limit were lost in transit.
            Err(_) => -libc::EMFILE,
            Ok([assignment, report]) => {
                let order = Order { assignment: assignment.into(), report };
                match fork_sibling() {
                    0 => work::run(daemon, order, engine),
                    answer => answer,
                }
            }
        };
        send(socket, &answer.to_ne_bytes(), SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

/// Receives descriptors; `None` at the end of the stream.
fn take_over(socket: BorrowedFd<'_>) -> io::Result<Option<Vec<OwnedFd>>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received =
        rustix::io::retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags))?;
    let mut handed = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            handed.extend(descriptors);
        }
    }
    Ok((received.bytes > 0).then_some(handed))
}

/// Forks a child of this process's parent. Returns 0 in the child. Returns the child's pid in this process, or a negative error number.
///
/// libc's `fork` cannot do that. libc's additional work concerns threads and locks of the parent, which do not exist here. Only libc's
/// cached thread id in the child is still the zygote's, as in each process that libcontainer makes.
fn fork_sibling() -> i32 {
    let none: libc::c_ulong = 0;
    // SAFETY: without CLONE_VM and with no stack of its own the child goes on with a copy of this process, which has one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, none, none, none, none) };
    match i32::try_from(pid) {
        Ok(pid @ 0..) => pid,
        _ => -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{WaitStatus, waitpid};
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::super::work::Assignment;
    use super::super::{Report, read_said};
    use super::*;
    use crate::pod::job::{Job, Start};

    /// Helpers are children of the process that made the zygote, receive assignments of any length, and are not forked once the zygote is
    /// gone.
    #[test]
    fn helpers_are_forked_for_the_daemon() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let zygote = Zygote::start(|| panic!("no job here needs an engine")).unwrap();
        let pid = Pid::from_raw(zygote.pid());
        let job = Job::Start(Start { state: PathBuf::from("/none".repeat(200_000)) });
        let assignment = Assignment { job, subject: None };
        let order = || {
            let (report, sender) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
            (report, Order { assignment: assignment.pack().unwrap(), report: sender })
        };
        runtime.block_on(async {
            let forks = Forks::new(zygote).unwrap();
            for _ in 0..2 {
                let (report, order) = order();
                let helper = Pid::from_raw(forks.fork(&order).await.unwrap());
                assert_eq!(waitpid(helper, None), Ok(WaitStatus::Exited(helper, 0)));
                let Some(Report::Failed(failure)) = read_said(&report).map(|said| said.report) else {
                    panic!("no report")
                };
                assert!(failure.message.contains("/none/none") && failure.message.ends_with("[…]"));
            }
            kill(pid, Signal::SIGKILL).unwrap();
            waitpid(pid, None).unwrap();
            assert!(matches!(forks.fork(&order().1).await, Err(ForkError::Ended)));
        });
    }
}
