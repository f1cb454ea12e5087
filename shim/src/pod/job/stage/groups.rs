//! The cgroups of version 1 that a container sees: a folder with a mount for each hierarchy, as runc makes it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use libcontainer::oci_spec::runtime::Mount;
use rustix::fs::{Mode, mkdirat, symlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    move_mount,
};

use super::bind::{change, clone};
use super::options::MountOptions;
use super::options_of;
use crate::node::cgroup;

/// Hierarchies by the names of their mount points, to be attached inside a folder.
pub(super) type Hierarchies = Vec<(String, OwnedFd)>;

/// Makes the folder, and the mounts for it, without attaching them. The container's cgroup is at `path`. `root` is the container's root
/// user as seen outside its user namespace.
///
/// # Errors
/// A mount cannot be made.
pub(super) fn make(mount: &Mount, path: &Path, root: Option<(u32, u32)>) -> io::Result<(OwnedFd, Hierarchies)> {
    let options = options_of(mount);
    let mut hierarchies = Vec::new();
    for (name, folder) in cgroup::shown(path)? {
        let tree = clone(&folder, true)?;
        change(&tree, &options)?;
        hierarchies.push((name, tree));
    }
    let folder = folder(root)?;
    change(&folder, &MountOptions { propagation: options.propagation, ..MountOptions::default() })?;
    Ok((folder, hierarchies))
}

/// Makes the file system that holds the mount points; it belongs to the container's root user.
fn folder(root: Option<(u32, u32)>) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", "tmpfs")?;
    fsconfig_set_string(context.as_fd(), "mode", "755")?;
    if let Some((uid, gid)) = root {
        fsconfig_set_string(context.as_fd(), "uid", uid.to_string())?;
        fsconfig_set_string(context.as_fd(), "gid", gid.to_string())?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Mounts the hierarchies in the folder, which is attached by now. Each controller of a shared hierarchy gets a link.
///
/// # Errors
/// A mount or link cannot be made.
pub(super) fn fill(folder: impl AsFd, hierarchies: Hierarchies) -> io::Result<()> {
    let folder = folder.as_fd();
    for (name, tree) in hierarchies {
        mkdirat(folder, &name, Mode::from_raw_mode(0o755))?;
        move_mount(tree, "", folder, &name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        for link in name.split(',').filter(|link| *link != name) {
            match symlinkat(&name, folder, link) {
                Err(error) if error != rustix::io::Errno::EXIST => return Err(error.into()),
                _ => {}
            }
        }
    }
    Ok(())
}
