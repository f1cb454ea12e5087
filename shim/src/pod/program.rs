//! The file that a daemon executes, and with it all its forks: also the init of each container.
//!
//! `/proc/PID/exe` of such a process leads to the shim's file on the node. Root in a container could keep a descriptor of it, wait until
//! no process runs it any more, and write to it. The next container would run that as root of the node (CVE-2019-5736). So a daemon never
//! executes the node's file by its own path. It executes it through a detached read-only mount. On kernels without such mounts (before
//! Linux 5.12) it executes a sealed copy in memory. Processes that are later started from `/proc/self/exe`, for example a compile worker,
//! run the same file, also after an upgrade has replaced it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

use crate::node::seal::detached;

/// Path of the running program, even if its file has been replaced.
const OWN: &str = "/proc/self/exe";
/// Name of the copy in `/proc`.
const COPY: &str = "containerd-shim";
/// Flag of an executable file in memory, needed since Linux 6.3; before, each is executable.
const EXECUTABLE: MemfdFlags = MemfdFlags::from_bits_retain(0x10);

/// Opens the running program so that no process can write to it: neither through the descriptor, nor through `/proc/PID/exe` of a process
/// that executes it.
///
/// # Errors
/// The system's error about the copy, if a mount is not possible.
pub(crate) fn sealed() -> io::Result<OwnedFd> {
    detached(OWN).or_else(|_| copy())
}

/// Returns whether this process runs a copy.
pub(crate) fn is_copy() -> bool {
    fs::read_link(OWN).is_ok_and(|path| path.to_string_lossy().starts_with("/memfd:"))
}

fn copy() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match memfd_create(COPY, flags | EXECUTABLE) {
        Err(Errno::INVAL) => memfd_create(COPY, flags)?,
        made => made?,
    };
    let mut file = File::from(file);
    io::copy(&mut File::open(OWN)?, &mut file)?;
    file.set_permissions(Permissions::from_mode(0o555))?;
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::process::Command;

    use super::*;

    /// A copy can be executed, recognises itself as one, and cannot be written to.
    #[test]
    fn copies_run_and_are_sealed() {
        const ASKED: &str = "PREWASI_TEST_COPY";
        if std::env::var_os(ASKED).is_some() {
            assert!(is_copy());
            return;
        }
        assert!(!is_copy());
        let copy = copy().unwrap();
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        let mut again = Command::new(&path);
        again.args(["--exact", "program::tests::copies_run_and_are_sealed"]).env(ASKED, "1");
        assert!(again.output().unwrap().status.success());
        let error = rustix::io::write(&copy, b"x").unwrap_err();
        assert_eq!(error, Errno::PERM);
        assert_eq!(rustix::fs::ftruncate(&copy, 0), Err(Errno::PERM));
    }
}
