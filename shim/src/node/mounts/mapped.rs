//! Id-mapped mounts: options `uidmap` and `gidmap`, which containerd's snapshotters write for containers with a user namespace.
//!
//! An overlay itself cannot be id-mapped, but its lower folders can. A mapped mount must be attached while it becomes part of an overlay.
//! So all mounts are made in a separate mount namespace, which ends with this process at the latest. Only the resulting mount is taken
//! out of it.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::users::{self, IdMap};
use super::{Change, Mount, MountError, map_ids};

const LOWER: &str = "lowerdir=";
/// Name of the folder on which the result is first mounted.
const RESULT: &str = "result";

/// Removes the mappings from the options of a mount and returns them; `None` if it has none.
///
/// # Errors
/// [`MountError::Mapping`] if one of the two is missing or malformed.
pub(super) fn take(mount: &Mount, rootfs: &Path) -> Result<Option<(Mount, IdMap, IdMap)>, MountError> {
    let mut plain = Mount { options: Vec::new(), ..mount.clone() };
    let (mut uids, mut gids) = (None, None);
    for option in &mount.options {
        match option.split_once('=') {
            Some(("uidmap", map)) => uids = Some(map),
            Some(("gidmap", map)) => gids = Some(map),
            _ => plain.options.push(option.clone()),
        }
    }
    let maps = match (uids, gids) {
        (None, None) => return Ok(None),
        (uids, gids) => uids.and_then(IdMap::parse).zip(gids.and_then(IdMap::parse)),
    };
    let (uids, gids) = maps.ok_or_else(|| MountError::Mapping {
        kind: mount.kind.clone(),
        path: rootfs.to_owned(),
        options: mount.options.join(","),
    })?;
    Ok(Some((plain, uids, gids)))
}

/// Makes a mount with mapped ids at `rootfs`, or at the mount's target below it.
///
/// # Errors
/// [`MountError`]; nothing is mounted then.
pub(super) fn mount_mapped(plain: &Mount, uids: &IdMap, gids: &IdMap, rootfs: &Path) -> Result<(), MountError> {
    let failed = |source| MountError::Mapped { kind: plain.kind.clone(), path: rootfs.to_owned(), source };
    if is_mapped(plain, uids, gids) {
        return plain.mount(rootfs);
    }
    let users = users::namespace(uids, gids).map_err(failed)?;
    let own = File::open("/proc/self/ns/mnt").map_err(failed)?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| failed(error.into()))?;
    let made = apart(plain, &users, rootfs);
    setns(own, CloneFlags::CLONE_NEWNS).map_err(|error| failed(error.into()))?;
    let target = plain.target(rootfs, &plain.path(rootfs)?)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(made?, "", target, "", flags).map_err(|error| failed(error.into()))
}

/// Returns whether the files on disk belong to the mapped users already. That is so for a snapshot without parents, as of an image with
/// wasm layers alone. containerd has given its folder to the container's root user, and sets the options all the same. With a second
/// mapping the folder would belong to no user.
fn is_mapped(plain: &Mount, uids: &IdMap, gids: &IdMap) -> bool {
    let owner = fs::metadata(&plain.source).map(|source| (Some(source.uid()), Some(source.gid())));
    plain.kind != "overlay" && owner.is_ok_and(|owner| owner == (uids.root(), gids.root()))
}

/// Makes the mount in a namespace that only this process has.
fn apart(plain: &Mount, users: &File, rootfs: &Path) -> Result<OwnedFd, MountError> {
    let failed = |source| MountError::Mapped { kind: plain.kind.clone(), path: rootfs.to_owned(), source };
    let scratch = || {
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
        mount(Some("tmpfs"), rootfs, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
        fs::create_dir(rootfs.join(RESULT))
    };
    scratch().map_err(failed)?;
    let mut plain = Mount { target: String::new(), ..plain.clone() };
    let is_overlay = plain.kind == "overlay";
    if is_overlay {
        for option in &mut plain.options {
            if let Some(lower) = option.strip_prefix(LOWER) {
                *option = format!("{LOWER}{}", mapped_folders(lower, users, rootfs).map_err(failed)?);
            }
        }
    }
    let result = rootfs.join(RESULT);
    plain.mount(&result)?;
    let take = || {
        let tree = clone(&result)?;
        Change { propagation: libc::MS_PRIVATE, ..Change::default() }.apply(&tree, true)?;
        if !is_overlay {
            map_ids(&tree, users, true)?;
        }
        Ok(tree)
    };
    take().map_err(failed)
}

/// Mounts each lower folder again with mapped ids, and returns the list of these mounts.
fn mapped_folders(lower: &str, users: &File, scratch: &Path) -> io::Result<String> {
    let mut folders = Vec::new();
    for (number, folder) in lower.split(':').enumerate() {
        let path = scratch.join(number.to_string());
        fs::create_dir(&path)?;
        let tree = clone(Path::new(folder))?;
        Change { set: libc::MOUNT_ATTR_RDONLY, propagation: libc::MS_PRIVATE, ..Change::default() }
            .apply(&tree, true)?;
        map_ids(&tree, users, true)?;
        move_mount(tree, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        folders.push(path);
    }
    Ok(folders.iter().map(PathBuf::as_path).map(Path::to_string_lossy).collect::<Vec<_>>().join(":"))
}

fn clone(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that belongs to the mapped root user on disk is not mapped again.
    #[test]
    fn mapped_once() {
        let folder = std::env::temp_dir().join(format!("prewasi-mapped-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let owner = fs::metadata(&folder).unwrap();
        let mount = |kind: &str| Mount { kind: kind.into(), source: folder.display().to_string(), ..Mount::default() };
        let map = |host: u32| IdMap::parse(&format!("0:{host}:10")).unwrap();
        assert!(is_mapped(&mount("bind"), &map(owner.uid()), &map(owner.gid())));
        assert!(!is_mapped(&mount("bind"), &map(owner.uid() + 1), &map(owner.gid())));
        assert!(!is_mapped(&mount("overlay"), &map(owner.uid()), &map(owner.gid())));
        fs::remove_dir(folder).unwrap();
    }

    /// Both mappings are removed from the options; one without the other is refused.
    #[test]
    fn mappings_are_taken() {
        let overlay = |options: &[&str]| {
            let options = options.iter().map(|option| (*option).to_owned()).collect();
            take(&Mount { kind: "overlay".into(), options, ..Mount::default() }, Path::new("/r"))
        };
        assert_eq!(overlay(&["lowerdir=/a:/b", "ro"]).unwrap(), None);
        let (plain, uids, gids) =
            overlay(&["uidmap=0:1000:5", "lowerdir=/a", "gidmap=0:2000:5,5:1:1"]).unwrap().unwrap();
        assert_eq!(plain.options, ["lowerdir=/a"]);
        assert_eq!((Some(uids), Some(gids)), (IdMap::parse("0:1000:5"), IdMap::parse("0:2000:5,5:1:1")));
        for odd in [&["uidmap=0:1:2"][..], &["gidmap=0:1:2"], &["uidmap=0:1", "gidmap=0:1:2"]] {
            assert!(matches!(overlay(odd), Err(MountError::Mapping { .. })), "{odd:?}");
        }
    }
}
