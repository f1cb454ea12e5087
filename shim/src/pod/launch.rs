//! What a container's process does once libcontainer has built the container around it, or has put it there.
//!
//! [`WasmExecutor`] never returns and runs no destructors: the process ends with `_exit`, and the guest's exit code is
//! the process's. [`NativeExecutor`] replaces the process.

mod attributes;
mod confine;
mod guard;
mod label;
mod native;
mod signals;
mod stop;
mod title;
mod wasm;

pub(crate) use attributes::{AttributeError, Attributes};
pub(crate) use confine::Confinement;
pub(crate) use native::NativeExecutor;
pub(crate) use wasm::{Wasm, WasmExecutor};

use std::error::Error;
use std::io::Write as _;

use rustix::fs::{Mode, OFlags};

/// Exit code of a container whose program is not there.
const NOT_THERE: u8 = 127;

/// Lets the process write to outputs that lead nowhere: libcontainer opens the container's own `/dev/null` in the place of the
/// node's, but for reading only.
fn mend_null_outputs() {
    let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) else { return };
    let is_unwritable = |fd| {
        let same = |own: rustix::fs::Stat| rustix::fs::fstat(&null).is_ok_and(|null| null.st_rdev == own.st_rdev);
        let reads_only = rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDONLY);
        reads_only && rustix::fs::fstat(fd).is_ok_and(same)
    };
    // What cannot be mended stays as it is; it leads nowhere in any case.
    if is_unwritable(rustix::stdio::stdout()) {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
    if is_unwritable(rustix::stdio::stderr()) {
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

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
