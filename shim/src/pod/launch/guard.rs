//! The restrictions of a guest's process, applied directly before the guest runs. It can make only the system calls of a list, and gets
//! no new executable memory. If the options restrict its folders, it has no paths outside of them.
//!
//! The sandbox of wasm is the first line of defence; this is the second. Hostile code may get past the first, by a fault of an engine or
//! because a library of the shim is made to load it. That code can compute and use the container's files and sockets, which the guest can
//! do anyway. It can use nothing else of the kernel. The guard comes on top of the container's own seccomp filter. It is the last step:
//! capabilities, labels and descriptors are set before. A guest does not run without it.
//!
//! An unprivileged process may load a filter only if exec can give it no privileges. This process never executes a program, so it gives
//! these privileges up, with any spec.

mod calls;
mod folders;
#[cfg(debug_assertions)]
mod probe;
mod program;

use std::io;

use prewasi_engines::{Guest, Network, Program, RunError};

/// The reason why a guest cannot be guarded.
#[derive(Debug, thiserror::Error)]
pub(super) enum GuardError {
    #[error("cannot guard the guest: Landlock cannot deny it all files")]
    Folders(#[from] landlock::RulesetError),
    #[error(
        "cannot guard the guest: the filter of system calls cannot be loaded; the container's seccomp profile must allow `seccomp` or `prctl`"
    )]
    Filter(#[source] io::Error),
}

/// Needs of a guest beyond those of all guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Needs {
    /// Internet sockets.
    network: bool,
    /// Child processes.
    processes: bool,
}

/// Applies the guard to the whole process. Open descriptors and existing mappings stay.
///
/// # Errors
/// [`GuardError`]: the guest must not run.
pub(super) fn enter(guest: &Guest, serves: bool) -> Result<(), GuardError> {
    let needs = Needs { network: serves || guest.network == Network::Inherit, processes: serves };
    // If this fails, and the flag is not set already, loading fails as well.
    let _ = rustix::thread::set_no_new_privs(true);
    folders::close(guest, needs)?;
    program::load(&program::write(&calls::allowed(needs), std::process::id())).map_err(GuardError::Filter)
}

/// Runs the guest. In a debug build it runs the probe instead, if the guest asks for it.
pub(super) fn run(program: &dyn Program, guest: &Guest) -> Result<u8, RunError> {
    #[cfg(debug_assertions)]
    if let Some(outcome) = probe::run(guest) {
        return Ok(outcome);
    }
    program.run(guest)
}
