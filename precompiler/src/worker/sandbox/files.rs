//! A private file system for a worker: empty, in memory, as large as the worker's memory limit, and gone with the worker.
//!
//! It is for compilers that can only write to files. The worker of such a compiler may open files, but no others exist. The old root is unmounted before
//! the first byte of wasm is read, so this does not depend on a kernel with Landlock.

use std::fs;
use std::io::{Error, Result};
use std::os::unix::fs::PermissionsExt as _;

use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

/// A folder that exists on each system, over which the new root is mounted.
const PLACE: &str = "/proc";
/// Mode of a folder for temporary files: every user may write there.
const ANYONE: u32 = 0o1777;

/// Replaces the root by an empty file system of `size` bytes, with a folder for temporary files in it.
///
/// # Errors
/// The kernel refuses. Then the caller must not compile: later steps allow system calls for files.
pub(super) fn enter(size: u64) -> Result<()> {
    leave().map_err(|error| failed("leave the system's files", error))?;
    replace_root(size).map_err(|error| failed("mount a file system for the compiler", error))?;
    let folder = std::env::temp_dir();
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(ANYONE))
}

/// Enters a new mount namespace, and without privilege a user namespace in which mounting is allowed.
fn leave() -> Result<()> {
    let (user, group) = (Uid::effective(), Gid::effective());
    if user.is_root() {
        return nix::sched::unshare(CloneFlags::CLONE_NEWNS).map_err(Error::from);
    }
    nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUSER)?;
    // Without a user mapping the process could not make a file there.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

fn replace_root(size: u64) -> Result<()> {
    // Otherwise the mount would propagate to the system.
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOSUID;
    let options = std::ffi::CString::new(format!("size={size},mode=0755")).map_err(Error::other)?;
    rustix::mount::mount("prewasi-compiler", PLACE, "tmpfs", flags, options.as_c_str())?;
    std::env::set_current_dir(PLACE)?;
    // The old root is then mounted on the new one, and is unmounted.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}

fn failed(action: &str, error: Error) -> Error {
    Error::new(error.kind(), format!("cannot {action}: {error}"))
}

/// System calls for files, in addition to those for computing.
#[cfg(target_arch = "x86_64")]
pub(super) const CALLS: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_rename,
    libc::SYS_renameat2,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
];
/// The same list: this architecture lacks the older forms of some calls.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const CALLS: &[libc::c_long] = &[
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
];
