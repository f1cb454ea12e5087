//! Waiting until a descriptor can be read or written.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Lets the runtime watch a descriptor, which must not block.
///
/// # Errors
/// What the system says, if the descriptor is of a kind that cannot be waited for above all.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the value owns its descriptor, gives the same one each time, and closes it when it is dropped.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
