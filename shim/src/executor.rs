//! What the container's init process does once libcontainer has built the container around it.
//!
//! [`WasmExecutor`] never returns and runs no destructors: the process ends with `_exit`, and the guest's exit code is
//! the container's. [`NativeExecutor`] replaces the process.

mod native;
mod signals;
mod wasm;

pub(crate) use native::NativeExecutor;
pub(crate) use wasm::WasmExecutor;

use std::error::Error;
use std::io::Write as _;

/// Exit code of a container that cannot run what it was told to.
const CANNOT_RUN: u8 = 126;
/// Exit code of a container whose program is not there.
const NOT_THERE: u8 = 127;
/// Exit code of a guest that trapped, or whose engine panicked.
const TRAPPED: u8 = 134;

/// Ends the process at once.
fn exit(code: u8) -> ! {
    // SAFETY: _exit ends the process; no code of ours runs after it, so nothing can be left in a bad state.
    unsafe { nix::libc::_exit(i32::from(code)) }
}

/// Tells the user why the container ends, on the container's own standard error.
fn tell(error: &dyn Error) {
    let mut text = format!("error: {error}\n");
    let mut next = error.source();
    while let Some(reason) = next {
        text.push_str(&format!("caused by: {reason}\n"));
        next = reason.source();
    }
    // If standard error is gone there is nobody to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
