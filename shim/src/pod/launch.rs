//! Runs the program of a container's process, after libcontainer has built the container around the process or moved it there.
//!
//! [`WasmExecutor`] never returns and runs no destructors: the process ends with `_exit`, and its exit code is the guest's.
//! [`NativeExecutor`] replaces the process.

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

/// Exit code of a container whose program does not exist.
const NOT_THERE: u8 = 127;

/// Makes null outputs writable: libcontainer replaces the node's `/dev/null` by the container's own, but opens it for reading only.
fn mend_null_outputs() {
    let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) else { return };
    let is_unwritable = |fd| {
        let same = |own: rustix::fs::Stat| rustix::fs::fstat(&null).is_ok_and(|null| null.st_rdev == own.st_rdev);
        let reads_only = rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDONLY);
        reads_only && rustix::fs::fstat(fd).is_ok_and(same)
    };
    // A failure is harmless: the output leads nowhere in any case.
    if is_unwritable(rustix::stdio::stdout()) {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
    if is_unwritable(rustix::stdio::stderr()) {
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// Ends the process at once.
fn exit(code: u8) -> ! {
    // SAFETY: _exit ends the process; no code of this program runs after it, so it cannot see a bad state.
    unsafe { nix::libc::_exit(i32::from(code)) }
}

/// Prints to the container's own standard error why the container ends.
fn tell(error: &dyn Error) {
    let mut text = format!("error: {error}\n");
    let mut next = error.source();
    while let Some(reason) = next {
        text.push_str(&format!("caused by: {reason}\n"));
        next = reason.source();
    }
    // Without standard error there is no way to report it.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
