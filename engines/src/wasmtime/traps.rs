//! Keeps the signal handlers that turn faults of native code into traps.
//!
//! wasmtime installs them once per process, when the first engine is made. A container's program runs in a process that was forked after
//! that, and the setup of that process may have reset or blocked signals. So the handlers are recorded when they are installed, and
//! restored directly before a guest runs.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use nix::libc;
use nix::sys::signal::{SigSet, Signal};

/// Faults that native code may cause on purpose: out-of-bounds access, `unreachable`, division by zero.
const FAULTS: [Signal; 3] = [Signal::SIGSEGV, Signal::SIGILL, Signal::SIGFPE];

static HANDLERS: OnceLock<[libc::sigaction; 3]> = OnceLock::new();

/// Records the handlers. Call this as soon as an engine is made; only the first call has an effect.
pub(super) fn remember() {
    HANDLERS.get_or_init(|| {
        FAULTS.map(|signal| {
            let mut action = MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: the signal's number is valid and `action` is valid for a write; nothing is changed. All-zero bytes
            // are a valid `sigaction` (the default), should the call fail.
            unsafe {
                libc::sigaction(signal as libc::c_int, ptr::null(), action.as_mut_ptr());
                action.assume_init()
            }
        })
    });
}

/// Restores the handlers, and unblocks their signals for the calling thread.
///
/// # Errors
/// The system refuses.
pub(super) fn restore() -> io::Result<()> {
    let handlers = HANDLERS.get().into_iter().flatten();
    for (signal, action) in FAULTS.into_iter().zip(handlers) {
        // SAFETY: the system itself returned this action for this signal. It is wasmtime's handler, and its code and
        // state live as long as the process.
        if unsafe { libc::sigaction(signal as libc::c_int, action, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(SigSet::from_iter(FAULTS).thread_unblock()?)
}
