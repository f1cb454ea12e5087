//! The file that a daemon runs, and with it all processes that are forked from it: the init of each container too.
//!
//! `/proc/PID/exe` of such a process leads to the shim on the node. Root in a container could keep a descriptor of it, wait until
//! no process runs it any more, and write to it: the next container would run that as root of the node (CVE-2019-5736). So a
//! daemon never runs the node's file by its own path. It runs it through a read-only mount that is in no folder; for
//! kernels without that (before Linux 5.12) it runs a sealed copy in memory. Whatever is started from `/proc/self/exe`
//! later, a compile worker for example, runs the same, also after an upgrade has replaced the file.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

use crate::node::seal::detached;

/// The program that runs now, even if its file has been replaced.
const OWN: &str = "/proc/self/exe";
/// What the copy is called in `/proc`.
const COPY: &str = "containerd-shim";
/// Says that a file in memory may be executed, since Linux 6.3; before, each may be.
const EXECUTABLE: MemfdFlags = MemfdFlags::from_bits_retain(0x10);

/// Opens the program that runs now so that nobody can write to it through the descriptor, or through `/proc/PID/exe` of a
/// process that executes it.
///
/// # Errors
/// What the system says of the copy, if there can be no mount.
pub(crate) fn sealed() -> io::Result<OwnedFd> {
    detached(OWN).or_else(|_| copy())
}

/// Says whether this process runs a copy.
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

    /// A copy runs, knows that it is one, and takes no writes.
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
