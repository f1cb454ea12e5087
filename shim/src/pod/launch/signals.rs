//! Signals of a process that is pid 1 of its container and never executes another program.
//!
//! The kernel drops signals for pid 1 without a handler, in particular SIGTERM. So each signal that would end an ordinary process gets a
//! handler that ends this one, with the exit code that a shell would report. The signals that stop a container are SIGTERM, those of a
//! terminal (SIGINT, SIGQUIT), and the signal that the container's image or pod names. They do so unless the program handles a stop, see
//! [`stop`]. SIGALRM marks the end of the program's grace period.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;
use nix::sys::signal::SigmaskHow;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction, sigprocmask};

use super::stop;

/// Signals that end a process by default. Those that engines use are left out (SIGSEGV and its like), and SIGPIPE, which a guest gets as
/// an error of its write.
const ENDING: [Signal; 14] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGABRT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGSTKFLT,
    Signal::SIGXCPU,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
];

/// Signals that cannot stop a container: two belong to the kernel; it sends the others about the engine, the guest's writes or a server's
/// processes.
const TAKEN: [libc::c_int; 10] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGPIPE,
    libc::SIGCHLD,
];
/// The highest signal number.
const HIGHEST: libc::c_int = 64;

/// A bit for each signal by which a container is stopped.
static STOPPING: AtomicU64 = AtomicU64::new(bit(libc::SIGTERM) | bit(libc::SIGINT) | bit(libc::SIGQUIT));

const fn bit(signal: libc::c_int) -> u64 {
    1 << (signal - 1)
}

extern "C" fn end(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid description of the signal.
    if signal == libc::SIGWINCH && unsafe { (*info).si_code } == libc::SI_KERNEL {
        // The window's size has changed; the signal is no request to stop.
        return;
    }
    let stops = STOPPING.load(Ordering::Relaxed) & bit(signal) != 0;
    let signal = match (signal, stop::told_by()) {
        // The grace period has passed.
        (libc::SIGALRM, Some(told)) => told,
        (signal, _) if stops && stop::tell(signal) => return,
        (signal, _) => signal,
    };
    // SAFETY: _exit may be called in a signal handler.
    unsafe { libc::_exit(128 + signal) }
}

/// Installs handlers for each signal that should end the process. `stop` is the signal that stops the container: like the others it first
/// informs a program that handles a stop.
///
/// # Errors
/// The system's error.
pub(super) fn end_on_signals(stop: Option<libc::c_int>) -> nix::Result<()> {
    let action = SigAction::new(SigHandler::SigAction(end), SaFlags::SA_ONSTACK | SaFlags::SA_SIGINFO, SigSet::all());
    for signal in ENDING {
        // SAFETY: the handler makes only calls that are safe in one.
        unsafe { sigaction(signal, &action) }?;
    }
    if let Some(stop) = stop.filter(|stop| (1..=HIGHEST).contains(stop) && !TAKEN.contains(stop)) {
        let action = libc::sigaction::from(action);
        // SAFETY: the handler makes only calls that are safe in one. Without nix, which does not know all signals.
        if unsafe { libc::sigaction(stop, &raw const action, std::ptr::null_mut()) } == 0 {
            STOPPING.fetch_or(bit(stop), Ordering::Relaxed);
        }
    }
    ignore_closed_pipes()?;
    unblock()
}

/// Makes a write to a pipe without a reader fail with an error, instead of ending the process.
///
/// # Errors
/// The system's error.
pub(super) fn ignore_closed_pipes() -> nix::Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring a signal runs no code.
    unsafe { sigaction(Signal::SIGPIPE, &ignore) }.map(drop)
}

/// Resets signals that a parent of containerd ignores, for example after `nohup`: exec would pass that on to the program.
pub(super) fn forget_ignored() {
    for signal in 1..=HIGHEST {
        // SAFETY: the default action runs no code of this process. The kernel refuses it for SIGKILL and SIGSTOP, which cannot be
        // ignored.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Unblocks every signal; a process inherits its parent's blocked signals.
///
/// # Errors
/// The system's error.
pub(super) fn unblock() -> nix::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
