//! Signals of a process that is pid 1 of its container and never replaced by another program.
//!
//! The kernel drops signals for pid 1 that have no handler, SIGTERM above all. Each signal that would end an ordinary
//! process therefore gets a handler that ends this one, with the exit code a shell would report. Those by which a container is
//! stopped do so unless the program can hear it, see [`stop`]: SIGTERM, what a terminal sends (SIGINT, SIGQUIT), and the signal that the
//! container's image or pod names. SIGALRM is the end of the time that it has then.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;
use nix::sys::signal::SigmaskHow;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction, sigprocmask};

use super::stop;

/// The signals whose default is to end a process, without those that engines use (SIGSEGV and its like) and SIGPIPE,
/// which a guest sees as an error of its write.
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

/// Signals that cannot be had for stopping: the kernel keeps two for itself, and sends others for what the engine, the guest's writes or
/// the processes of a server do.
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
/// The highest number of a signal.
const HIGHEST: libc::c_int = 64;

/// A bit for each signal by which a container is stopped.
static STOPPING: AtomicU64 = AtomicU64::new(bit(libc::SIGTERM) | bit(libc::SIGINT) | bit(libc::SIGQUIT));

const fn bit(signal: libc::c_int) -> u64 {
    1 << (signal - 1)
}

extern "C" fn end(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands over what it says of the signal.
    if signal == libc::SIGWINCH && unsafe { (*info).si_code } == libc::SI_KERNEL {
        // A window has another size; nobody has asked for an end.
        return;
    }
    let stops = STOPPING.load(Ordering::Relaxed) & bit(signal) != 0;
    let signal = match (signal, stop::told_by()) {
        // The time that it had is over.
        (libc::SIGALRM, Some(told)) => told,
        (signal, _) if stops && stop::tell(signal) => return,
        (signal, _) => signal,
    };
    // SAFETY: _exit may be called in a signal handler.
    unsafe { libc::_exit(128 + signal) }
}

/// Makes each signal that should end the process end it, from now on; so does `stop`, by which the container is stopped, and which tells
/// the program first, if that can hear.
///
/// # Errors
/// What the system says.
pub(super) fn end_on_signals(stop: Option<libc::c_int>) -> nix::Result<()> {
    let action = SigAction::new(SigHandler::SigAction(end), SaFlags::SA_ONSTACK | SaFlags::SA_SIGINFO, SigSet::all());
    for signal in ENDING {
        // SAFETY: the handler calls nothing that may not be called in one.
        unsafe { sigaction(signal, &action) }?;
    }
    if let Some(stop) = stop.filter(|stop| (1..=HIGHEST).contains(stop) && !TAKEN.contains(stop)) {
        let action = libc::sigaction::from(action);
        // SAFETY: the handler calls nothing that may not be called in one. Not by nix, which does not know all signals.
        if unsafe { libc::sigaction(stop, &raw const action, std::ptr::null_mut()) } == 0 {
            STOPPING.fetch_or(bit(stop), Ordering::Relaxed);
        }
    }
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring a signal runs no code.
    unsafe { sigaction(Signal::SIGPIPE, &ignore) }?;
    unblock()
}

/// Takes back what a process up to containerd has had ignored, `nohup` for example: exec would hand that on to the program.
pub(super) fn forget_ignored() {
    for signal in 1..=HIGHEST {
        // SAFETY: the default action is no code of this process. The kernel refuses it for SIGKILL and SIGSTOP, which cannot be ignored.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Lets every signal through; a process inherits what its parent had blocked.
///
/// # Errors
/// What the system says.
pub(super) fn unblock() -> nix::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
