//! Waits for children: helpers, and the processes of containers, which libcontainer makes children of the daemon.

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

/// Collects the ends of children and hands each to whoever waits for it.
#[derive(Default)]
pub(crate) struct Reaper {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: HashMap<i32, oneshot::Sender<Exit>>,
    /// Ends that came before anybody waited for them, each with how many had come before.
    unclaimed: HashMap<i32, (u64, Exit)>,
    ends: u64,
    keepers: usize,
}

/// As long as it lives, ends that nobody waits for are kept.
pub(crate) struct Keeping {
    reaper: Arc<Reaper>,
    /// How many ends had come before.
    since: u64,
}

impl Reaper {
    /// Returns what resolves when a child has ended that nobody has waited for yet.
    pub(crate) fn watch(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).waiting.insert(pid, sender);
        receiver
    }

    /// Keeps ends that nobody waits for until the result is dropped.
    pub(crate) fn keep_unclaimed(self: &Arc<Self>) -> Keeping {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.keepers += 1;
        Keeping { reaper: self.clone(), since: inner.ends }
    }

    /// Collects children whenever the system says that one has ended; never returns.
    ///
    /// # Errors
    /// What the system says of the signal descriptor.
    pub(crate) async fn run(&self, signals: SignalFd) -> io::Result<()> {
        // SAFETY: the descriptor belongs to the value, which gives the same one each time and closes it when dropped.
        let signals = unsafe { AsyncFd::register_with_interest(signals, Interest::READABLE) }?;
        loop {
            self.reap();
            let mut ready = signals.readable().await?;
            // Several ends may share one signal: what counts is that there was any.
            while signals.get_ref().read_signal().is_ok_and(|signal| signal.is_some()) {}
            ready.clear_ready();
        }
    }

    fn reap(&self) {
        loop {
            // Processes cloned without a signal, as libcontainer may, show only with __WALL.
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
            // Who waited may have lost interest.
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
    /// Returns what resolves when a child has ended that was made since the keeping began: an end before that was another's, who
    /// had the same number.
    pub(crate) fn watch(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.reaper.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.unclaimed.remove(&pid) {
            // The receiver is right here.
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

/// Blocks SIGCHLD and returns the descriptor that tells of it. Must be called before the runtime is made.
///
/// # Errors
/// What the system says.
pub(crate) fn signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An end reaches who waits for it, and one that came too early is kept only while somebody may ask for it.
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

    /// The end of a process is not taken for that of a later one with the same number.
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
