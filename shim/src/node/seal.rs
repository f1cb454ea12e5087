//! Prevents a read-only descriptor from being reopened for writing.
//!
//! An engine may keep the file of its native code open, which is a blob in the node's content store that other containers run too. An
//! attacker with control of a container's process, as root of the container, could reopen it for writing through `/proc/self/fd`. A
//! descriptor that was opened through a read-only mount refuses that.
//!
//! The mount is detached, and ends when the descriptor that made it is closed. After that no process can make it writable, because
//! `mount_setattr(2)` changes only attached mounts.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::libc;
use rustix::fs::{FileType, Mode, OFlags, SealFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::node::mounts::Change;

/// Replaces each descriptor of a regular file by one for the same file, opened through a detached read-only mount. A write-sealed file in
/// memory stays as it is: it belongs to no mount that could be cloned.
///
/// # Errors
/// The system's first error, after all have been tried; it needs Linux 5.12.
pub(crate) fn seal(fds: &[RawFd]) -> io::Result<()> {
    let files = fds.iter().filter(|fd| is_file(**fd) && !is_sealed(**fd));
    let results: Vec<io::Result<()>> = files.map(|fd| seal_one(*fd)).collect();
    results.into_iter().collect()
}

fn seal_one(fd: RawFd) -> io::Result<()> {
    let tree = detached(&format!("/proc/self/fd/{fd}"))?;
    let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
    let sealed = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: the owner of `fd` keeps a descriptor of the same file, opened for reading; only its number counts.
    if unsafe { libc::dup3(sealed.as_raw_fd(), fd, libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes a detached read-only mount of a file. As long as the descriptor is open it refers to the file.
///
/// # Errors
/// The system's error; it needs Linux 5.12.
pub(crate) fn detached(path: &str) -> io::Result<OwnedFd> {
    let tree = open_tree(rustix::fs::CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    Change::set(libc::MOUNT_ATTR_RDONLY).apply(&tree, false)?;
    Ok(tree)
}

fn is_file(fd: RawFd) -> bool {
    rustix::fs::fstat(&*borrowed(fd)).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

fn is_sealed(fd: RawFd) -> bool {
    // The call fails for other files, which have no seals.
    rustix::fs::fcntl_get_seals(&*borrowed(fd)).is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}

fn borrowed(fd: RawFd) -> ManuallyDrop<OwnedFd> {
    // SAFETY: the value is never dropped, so it does not close a descriptor that another value owns.
    ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read as _;

    use super::*;

    /// A sealed file can still be read through the same descriptor number, and cannot be reopened for writing through it.
    #[test]
    fn sealed_files_cannot_be_written() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root may clone mounts");
            assert!(std::env::var_os("CI").is_none(), "CI runs as root");
            return;
        }
        let path = std::env::temp_dir().join(format!("prewasi-seal-{}", std::process::id()));
        fs::write(&path, "code").unwrap();
        let mut file = File::open(&path).unwrap();
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert!(File::options().write(true).open(&again).is_ok());
        seal(&[file.as_raw_fd()]).unwrap();
        let error = File::options().write(true).open(&again).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "code");
        fs::remove_file(path).unwrap();
    }

    /// A write-sealed file in memory stays as it is; a descriptor that cannot be protected does not prevent the others' protection.
    #[test]
    fn files_in_memory_need_no_mount() {
        use rustix::fs::{MemfdFlags, fcntl_add_seals, memfd_create};

        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root may clone mounts");
            return;
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let (sealed, open) = (memfd_create("sealed", flags).unwrap(), memfd_create("open", flags).unwrap());
        fcntl_add_seals(&sealed, SealFlags::WRITE).unwrap();
        seal(&[sealed.as_raw_fd()]).unwrap();
        let again = File::options().append(true).open(format!("/proc/self/fd/{}", sealed.as_raw_fd()));
        let error = again.and_then(|mut file| std::io::Write::write(&mut file, b"x")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        let path = std::env::temp_dir().join(format!("prewasi-seal-all-{}", std::process::id()));
        fs::write(&path, "code").unwrap();
        let file = File::open(&path).unwrap();
        seal(&[open.as_raw_fd(), file.as_raw_fd()]).unwrap_err();
        let error = File::options().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        fs::remove_file(path).unwrap();
    }
}
