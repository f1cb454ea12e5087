//! Reaps children: helpers, and the processes of containers, which libcontainer makes children of the daemon.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::node::pid::Exit;

/// Reaps children and passes each exit to its waiter.
#[derive(Default)]
pub(crate) struct Reaper {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: HashMap<i32, oneshot::Sender<Exit>>,
    /// Exits without a waiter, each with the number of exits before it.
    unclaimed: HashMap<i32, (u64, Exit)>,
    ends: u64,
    keepers: usize,
}

/// A guard: as long as it lives, exits without a waiter are kept.
pub(crate) struct Keeping {
    reaper: Arc<Reaper>,
    /// Number of exits before the guard was made.
    since: u64,
}

impl Reaper {
    /// Returns a receiver for the exit of a child that has not been reaped yet.
    pub(crate) fn watch(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).waiting.insert(pid, sender);
        receiver
    }

    /// Keeps exits without a waiter until the result is dropped.
    pub(crate) fn keep_unclaimed(self: &Arc<Self>) -> Keeping {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.keepers += 1;
        Keeping { reaper: self.clone(), since: inner.ends }
    }

    /// Reaps children whenever the system reports an exit; never returns.
    ///
    /// # Errors
    /// The signal descriptor cannot be read.
    pub(crate) async fn run(&self, signals: SignalFd) -> io::Result<()> {
        // SAFETY: the descriptor belongs to the value, which returns the same one each time and closes it on drop.
        let signals = unsafe { AsyncFd::register_with_interest(signals, Interest::READABLE) }?;
        loop {
            self.reap();
            let mut ready = signals.readable().await?;
            // Several exits may share one signal, so the number of signals does not matter.
            while signals.get_ref().read_signal().is_ok_and(|signal| signal.is_some()) {}
            ready.clear_ready();
        }
    }

    fn reap(&self) {
        loop {
            // Only __WALL also reports processes that were cloned without a signal, as libcontainer may do.
            let status = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "cannot wait for children");
                    return;
                }
                Ok(status) => status,
            };
            match status {
                WaitStatus::Exited(pid, code) => self.ended(pid.as_raw(), code.cast_unsigned()),
                WaitStatus::Signaled(pid, signal, _) => self.ended(pid.as_raw(), 128 + (signal as i32).cast_unsigned()),
                _ => {}
            }
        }
    }

    fn ended(&self, pid: i32, status: u32) {
        let exit = Exit { status, at: SystemTime::now() };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.waiting.remove(&pid) {
            // The waiter may have been dropped.
            Some(sender) => drop(sender.send(exit)),
            None if inner.keepers > 0 => {
                let before = inner.ends;
                inner.unclaimed.insert(pid, (before, exit));
            }
            None => {}
        }
        inner.ends += 1;
    }
}

impl Keeping {
    /// Returns a receiver for the exit of a child that was made since the guard was. An earlier exit belongs to another process with the
    /// same pid.
    pub(crate) fn watch(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.reaper.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.unclaimed.remove(&pid) {
            // The receiver is alive here.
            Some((before, exit)) if before >= self.since => drop(sender.send(exit)),
            _ => drop(inner.waiting.insert(pid, sender)),
        }
        receiver
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        let mut inner = self.reaper.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.keepers -= 1;
        if inner.keepers == 0 {
            inner.unclaimed.clear();
        }
    }
}

/// Blocks SIGCHLD and returns the descriptor that reports it. Must be called before the runtime is made.
///
/// # Errors
/// The system's error.
pub(crate) fn signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An exit reaches its waiter; an early one is kept only while a waiter may come.
    #[test]
    fn ends_are_handed_out() {
        let reaper = Arc::new(Reaper::default());
        let mut first = reaper.watch(10);
        reaper.ended(10, 7);
        assert_eq!(first.try_recv().map(|exit| exit.status), Ok(7));

        let keeping = reaper.keep_unclaimed();
        reaper.ended(11, 1);
        assert_eq!(keeping.watch(11).try_recv().map(|exit| exit.status), Ok(1));
        reaper.ended(12, 1);
        drop(keeping);
        let keeping = reaper.keep_unclaimed();
        assert!(keeping.watch(12).try_recv().is_err());
        drop(keeping);
        reaper.ended(13, 1);
        assert!(reaper.keep_unclaimed().watch(13).try_recv().is_err());
    }

    /// The exit of a process is not taken for that of a later one with the same pid.
    #[test]
    fn ends_of_others_are_not_taken() {
        let reaper = Arc::new(Reaper::default());
        let _long = reaper.keep_unclaimed();
        reaper.ended(10, 7);
        let keeping = reaper.keep_unclaimed();
        let mut later = keeping.watch(10);
        assert!(later.try_recv().is_err());
        reaper.ended(10, 8);
        assert_eq!(later.try_recv().map(|exit| exit.status), Ok(8));
    }
}
