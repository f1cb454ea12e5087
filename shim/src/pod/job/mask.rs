//! Masks paths of a container that libcontainer has built, before it runs a program.
//!
//! libcontainer 0.7 attaches a mask to the name of a link and leaves the file behind the link as it is, so a program reads that file
//! under its own name. runc (1.1 to 1.4) masks the file that the link leads to. So libcontainer's spec names no masked path, and the helper
//! makes the masks itself, in the container's mount namespace, as runc does: a folder gets an empty, read-only tmpfs, anything else the
//! container's `/dev/null`. A missing path needs no mask.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;
use nix::sched::{CloneFlags, setns};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, major, minor, open, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::stage::has_own_mounts;
use crate::pod::spec::root_on_node;

/// Numbers of the device `/dev/null`.
const NULL: (u32, u32) = (1, 3);
/// Maximum number of lookups of a path in which others rename files.
const ATTEMPTS: usize = 128;

/// The reason why a path cannot be masked.
#[derive(Debug, thiserror::Error)]
pub(super) enum MaskError {
    #[error("cannot enter the container to mask its paths")]
    Enter(#[source] io::Error),
    #[error("cannot mask {path:?}")]
    Path {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The masked paths of a container.
#[derive(Debug, Default)]
pub(super) struct Masks {
    paths: Vec<PathBuf>,
    /// SELinux label of the masks of folders.
    label: Option<String>,
    /// User and group of these masks, in a user namespace: the container's root.
    owner: Option<(u32, u32)>,
}

impl Masks {
    /// Takes the masked paths out of the spec for libcontainer, which keeps those of a container that shares its mounts.
    pub(super) fn take(spec: &mut Spec) -> Self {
        if !has_own_mounts(spec) {
            return Self::default();
        }
        let owner = root_on_node(spec);
        let Some(linux) = spec.linux_mut() else { return Self::default() };
        let paths = linux.masked_paths().iter().flatten().map(PathBuf::from).collect();
        linux.set_masked_paths(None);
        Self { paths, label: linux.mount_label().clone().filter(|label| !label.is_empty()), owner }
    }

    /// Masks the paths in the mount namespace of the container's first process, and returns to this process's namespace. This process
    /// must have one thread.
    ///
    /// # Errors
    /// [`MaskError`]; some paths may then be masked already.
    pub(super) fn apply(&self, init: i32) -> Result<(), MaskError> {
        if self.paths.is_empty() {
            return Ok(());
        }
        let namespace = |pid: &str| File::open(format!("/proc/{pid}/ns/mnt")).map_err(MaskError::Enter);
        let enter =
            |namespace| setns(namespace, CloneFlags::CLONE_NEWNS).map_err(|error| MaskError::Enter(error.into()));
        let own = namespace("self")?;
        enter(namespace(&init.to_string())?)?;
        let done = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| MaskError::Enter(error.into()))
            .and_then(|root| self.paths.iter().try_for_each(|path| self.mask(root.as_fd(), path)));
        enter(own)?;
        done
    }

    fn mask(&self, root: BorrowedFd<'_>, path: &Path) -> Result<(), MaskError> {
        let masked = match find(root, path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => Err(error.into()),
            Ok(found) => self.cover(root, &found),
        };
        masked.map_err(|source| MaskError::Path { path: path.to_owned(), source })
    }

    fn cover(&self, root: BorrowedFd<'_>, found: &OwnedFd) -> io::Result<()> {
        let is_folder = FileType::from_raw_mode(fstat(found)?.st_mode) == FileType::Directory;
        let mask = if is_folder { self.empty()? } else { null(root)? };
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(mask, c"", found, c"", flags)?)
    }

    /// Makes an empty, read-only file system.
    fn empty(&self) -> io::Result<OwnedFd> {
        let tmpfs = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(tmpfs.as_fd(), c"source", c"tmpfs")?;
        if let Some((uid, gid)) = self.owner {
            fsconfig_set_string(tmpfs.as_fd(), c"uid", uid.to_string())?;
            fsconfig_set_string(tmpfs.as_fd(), c"gid", gid.to_string())?;
        }
        fsconfig_set_flag(tmpfs.as_fd(), c"ro")?;
        if let Some(label) = &self.label {
            fsconfig_set_string(tmpfs.as_fd(), c"context", label.as_str())?;
        }
        fsconfig_create(tmpfs.as_fd())?;
        Ok(fsmount(tmpfs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?)
    }
}

/// Finds a file of the container, behind links.
fn find(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut found = Err(Errno::AGAIN);
    for _ in 0..ATTEMPTS {
        found = openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
        // Somebody renamed a file meanwhile.
        if !matches!(found, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    found
}

/// Copies the mount of the container's `/dev/null`, which must be the device.
fn null(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let device = find(root, Path::new("/dev/null"))?;
    let stat = fstat(&device)?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_device || (major(stat.st_rdev), minor(stat.st_rdev)) != NULL {
        return Err(io::Error::other("/dev/null of the container is not that device"));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(device, c"", flags)?)
}
