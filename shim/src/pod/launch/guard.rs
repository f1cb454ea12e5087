//! What the process of a guest gives up right before the guest runs: every system call but those on a list, all new
//! executable memory, and, where the options narrow its folders, every path outside of them.
//!
//! The walls of wasm are the first line. This is the second: whatever gets past them, by a fault of an engine or by code
//! that a library of ours was made to load, can compute and use the container's files and sockets, as the guest could anyway,
//! and nothing else of the kernel. It comes on top of the container's own seccomp filter, and is the last step of all:
//! capabilities, labels and descriptors are settled by then. A guest does not run without it.
//!
//! An unprivileged process may load a filter only if it can gain no privileges by an exec. This one never execs, so that is
//! set, whatever the spec says of it.

mod calls;
mod folders;
#[cfg(debug_assertions)]
mod probe;
mod program;

use std::io;

use prewasi_engines::{Guest, Network, Program, RunError};

/// Says why a guest cannot be guarded.
#[derive(Debug, thiserror::Error)]
pub(super) enum GuardError {
    #[error("cannot guard the guest: its folders cannot be closed off")]
    Folders(#[from] landlock::RulesetError),
    #[error(
        "cannot guard the guest: no filter of system calls can be loaded, which `seccomp` or `prctl` must be allowed for"
    )]
    Filter(#[source] io::Error),
}

/// What a guest needs beyond what all of them need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Needs {
    /// Sockets of the internet.
    network: bool,
    /// Processes of its own.
    processes: bool,
}

/// Puts the guard in force, for the whole process. What is open and mapped stays so.
///
/// # Errors
/// [`GuardError`]: the guest must not run.
pub(super) fn enter(guest: &Guest, serves: bool) -> Result<(), GuardError> {
    let needs = Needs { network: serves || guest.network == Network::Inherit, processes: serves };
    // If this is refused, and is not so already, loading is refused as well.
    let _ = rustix::thread::set_no_new_privs(true);
    folders::close(guest, needs)?;
    program::load(&program::write(&calls::allowed(needs), std::process::id())).map_err(GuardError::Filter)
}

/// Runs the guest. In a debug build, what takes its place if it asks for that.
pub(super) fn run(program: &dyn Program, guest: &Guest) -> Result<u8, RunError> {
    #[cfg(debug_assertions)]
    if let Some(outcome) = probe::run(guest) {
        return Ok(outcome);
    }
    program.run(guest)
}
