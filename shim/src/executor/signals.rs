//! Signals of a process that is pid 1 of its container and never replaced by another program.
//!
//! The kernel drops signals for pid 1 that have no handler, SIGTERM above all. Each signal that would end an ordinary
//! process therefore gets a handler that ends this one, with the exit code a shell would report. SIGTERM does so unless the
//! program can hear it, see [`stop`]; SIGALRM is the end of the time that it has then.

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

extern "C" fn end(signal: libc::c_int) {
    let signal = match signal {
        libc::SIGTERM if stop::tell() => return,
        // The time that it had is over.
        libc::SIGALRM if stop::is_told() => libc::SIGTERM,
        signal => signal,
    };
    // SAFETY: _exit may be called in a signal handler.
    unsafe { libc::_exit(128 + signal) }
}

/// Makes each signal that should end the process end it, from now on.
///
/// # Errors
/// What the system says.
pub(super) fn end_on_signals() -> nix::Result<()> {
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::SA_ONSTACK, SigSet::all());
    for signal in ENDING {
        // SAFETY: the handler calls nothing that may not be called in one.
        unsafe { sigaction(signal, &action) }?;
    }
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring a signal runs no code.
    unsafe { sigaction(Signal::SIGPIPE, &ignore) }?;
    unblock()
}

/// Lets every signal through; a process inherits what its parent had blocked.
///
/// # Errors
/// What the system says.
pub(super) fn unblock() -> nix::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
