//! Waits until a descriptor can be read or written.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime. The descriptor must be non-blocking.
///
/// # Errors
/// The system's error, in particular for a kind of descriptor that cannot be polled.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the value owns its descriptor, returns the same one each time, and closes it on drop.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
