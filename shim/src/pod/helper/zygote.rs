//! The zygote: the process from which all helpers are forked.
//!
//! A helper, and the container that it makes, begin with a copy of the memory of the process that was forked, and wasm never
//! executes another program. So that is not the daemon, which knows all containers of the pod. At its start, before it knows
//! one, the daemon forks the zygote, which never learns of any: it is handed descriptors, forks, and the helper reads from
//! one of them what to do.
//!
//! The zygote has one thread and no runtime. A helper is its sibling: a child of the daemon, like the processes of
//! containers. The zygote ends with the daemon, and the daemon with it: it cannot fork another one, because it knows containers.

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

/// Where the zygote has its socket, and a helper its end of the pipe, next to [`log::FD`].
pub(super) const CONTROL_FD: i32 = log::FD - 1;
/// Most descriptors of one message.
const DESCRIPTORS: usize = 2;

/// The zygote, before there is a runtime.
pub(crate) struct Zygote {
    pid: i32,
    socket: OwnedFd,
}

/// What the daemon has of the zygote.
pub(super) struct Forks(Mutex<AsyncFd<OwnedFd>>);

/// Says why there is no helper.
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
    /// Forks the zygote. The calling process has one thread and knows no container.
    ///
    /// # Errors
    /// What the system says.
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
                // SAFETY: _exit runs no destructors: what is owned here belongs to the parent.
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
    /// What the system says.
    pub(super) fn new(zygote: Zygote) -> io::Result<Self> {
        // SAFETY: the descriptor belongs to the value, which gives the same one each time and closes it when dropped.
        Ok(Self(Mutex::new(unsafe { AsyncFd::register(zygote.socket) }?)))
    }

    /// Has a helper forked and returns its number. Once begun this must come to its end, or the next one gets the answer.
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
    // A message without a byte would pass for the end.
    sendmsg(socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Turns a copy of the daemon into a process of its own: no descriptors but the standard ones, the socket and the log, no
/// secrets, and signals as helpers and containers are to have them.
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
    // The bundle, where the daemon was started, goes some day.
    std::env::set_current_dir("/")
}

/// Forks helpers until the daemon has ended.
fn serve(daemon: Pid, engine: EngineConstructor) -> io::Result<()> {
    // SAFETY: `settle` has put the socket there, and nothing closes it in this process.
    let socket = unsafe { BorrowedFd::borrow_raw(CONTROL_FD) };
    while let Some(handed) = take_over(socket)? {
        let answer = match <[OwnedFd; DESCRIPTORS]>::try_from(handed) {
            // Those for which this process had no room were lost on the way.
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

/// Takes descriptors; `None` at the end.
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

/// Forks a child of this process's parent. Returns 0 in the child, in this process its number, or an error's as a negative one.
///
/// libc's `fork` cannot do that. What it does besides is for threads and locks of the parent, of which there are none here; only libc's
/// own note of the thread's number is the zygote's in the child, as in each process that libcontainer makes.
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

    /// Helpers are children of whoever has made the zygote, are told jobs of any length, and do not come from a zygote that is gone.
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
