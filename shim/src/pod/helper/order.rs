//! What a helper begins with.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::unistd::{Pid, getppid};

/// What a helper is handed.
pub(super) struct Order {
    /// Holds the assignment.
    pub(super) assignment: File,
    /// Takes the report.
    pub(super) report: OwnedFd,
}

/// Has the system kill this process when the daemon, its parent, ends.
pub(super) fn die_with(daemon: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if getppid() == daemon { Ok(()) } else { Err(io::Error::other("the shim has ended")) }
}
