//! The descriptors that a helper starts with.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::unistd::{Pid, getppid};

/// The input of a helper.
pub(super) struct Order {
    /// The file that holds the assignment.
    pub(super) assignment: File,
    /// The pipe for the report.
    pub(super) report: OwnedFd,
}

/// Has the system kill this process when the daemon, its parent, ends.
pub(super) fn die_with(daemon: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if getppid() == daemon { Ok(()) } else { Err(io::Error::other("the shim has ended")) }
}
