//! Changes attributes of mounts by `mount_setattr(2)`, which needs Linux 5.12.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use nix::libc;

/// A change of a mount.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    /// Attributes to be set (`MOUNT_ATTR_…`).
    pub(crate) set: u64,
    /// Attributes to be cleared.
    pub(crate) clear: u64,
    /// The new propagation (`MS_PRIVATE` and its like); 0 leaves it as it is.
    pub(crate) propagation: u64,
}

impl Change {
    /// Makes the change that sets attributes.
    pub(crate) fn set(attributes: u64) -> Self {
        Self { set: attributes, ..Self::default() }
    }

    /// Changes the open mount, with the mounts below it if `recursive`.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn apply(self, tree: impl AsFd, recursive: bool) -> io::Result<()> {
        if self == Self::default() {
            return Ok(());
        }
        change(tree.as_fd(), self, 0, recursive)
    }
}

/// Maps the ids of a detached mount by a user namespace.
///
/// # Errors
/// The system's error: in particular `EINVAL` if the file system does not support id mapping.
pub(crate) fn map_ids(tree: impl AsFd, users: impl AsFd, recursive: bool) -> io::Result<()> {
    let users = u64::try_from(users.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    change(tree.as_fd(), Change::set(libc::MOUNT_ATTR_IDMAP), users, recursive)
}

fn change(tree: BorrowedFd<'_>, change: Change, users: u64, recursive: bool) -> io::Result<()> {
    let Change { set, clear, propagation } = change;
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: users };
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the kernel reads an empty path and one structure of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | below,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
