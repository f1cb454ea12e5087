//! Mounts the data files of an image into the root filesystem of its container.
//!
//! Each mount is a read-only bind mount of the blob's file in containerd's content store: nothing is copied, and all containers share its
//! pages. The files are mounted before the spec's mounts, so an image cannot hide a mount of the spec. They are mounted on the root
//! filesystem itself, without following a link, and are unmounted with it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;
use nix::libc;
use prewasi_precompiler::{DataFile, Image, ImageError, Precompiler, overlap};
use rustix::fs::{CWD, FileType, Mode, OFlags, fchown, fstat, mkdirat, open, openat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::node::mounts::Change;

/// Folder of a bundle with copies of blobs that cannot be mounted from the content store.
const COPIES: &str = "prewasi-data";
/// Attributes of the mounts, with any file system of the content store.
const ATTRIBUTES: u64 =
    libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// The reason why a file of an image cannot be mounted into its container.
#[derive(Debug, thiserror::Error)]
pub(super) enum DataError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(
        "cannot mount layer {layer} of image {image} at {}: the container has a mount at {}; give the layer or the \
         mount another path",
        path.display(), mount.display()
    )]
    Overlap { image: String, layer: String, path: PathBuf, mount: PathBuf },
    #[error("cannot mount the files of image {image}: cannot mount the root filesystem {} at {}", root.display(), place.display())]
    Root {
        image: String,
        root: PathBuf,
        place: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "cannot mount layer {layer} of image {image} at {}: the image's own files have a link or a file on this path",
        path.display()
    )]
    InTheWay { image: String, layer: String, path: PathBuf },
    #[error("cannot mount layer {layer} of image {image} at {}", path.display())]
    Mount {
        image: String,
        layer: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl DataError {
    /// Returns whether the image or the container's description is at fault.
    pub(super) fn is_input(&self) -> bool {
        match self {
            Self::Image(error) => !matches!(error, ImageError::Store { .. }),
            Self::Overlap { .. } | Self::InTheWay { .. } => true,
            Self::Root { .. } | Self::Mount { .. } => false,
        }
    }
}

/// Mounts all files of an image. If one fails, the earlier mounts are removed with the container. Returns whether the root filesystem had
/// to be mounted in the bundle first.
///
/// # Errors
/// [`DataError`] names image and layer.
pub(super) async fn mount_all(
    precompiler: &Precompiler,
    image: &Image,
    spec: &Spec,
    root: &Path,
    bundle: &Path,
) -> Result<bool, DataError> {
    let files = image.data_files()?;
    let layer = |file: &DataFile| (image.name.clone(), file.digest.to_string());
    for file in &files {
        let (image, layer) = layer(file);
        if let Some(mount) = mount_in_the_way(spec, &file.path) {
            return Err(DataError::Overlap { image, layer, path: file.path.clone(), mount });
        }
    }
    let own = bundle.join("rootfs");
    let is_elsewhere = !files.is_empty() && root != own;
    if is_elsewhere {
        take_over(root, &own).map_err(|source| DataError::Root {
            image: image.name.clone(),
            root: root.to_owned(),
            place: own.clone(),
            source,
        })?;
    }
    for (number, file) in files.iter().enumerate() {
        let (image_name, layer) = layer(file);
        let failed = |source: io::Error| {
            let (image, path) = (image_name.clone(), file.path.clone());
            match source.raw_os_error() {
                Some(libc::ELOOP | libc::ENOTDIR) => DataError::InTheWay { image, layer: layer.clone(), path },
                _ => DataError::Mount { image, layer: layer.clone(), path, source },
            }
        };
        let blob = precompiler.open_data(image, file).await?;
        let source = match blob.path {
            Some(_) => blob.file,
            None => copy(&blob.file, &bundle.join(COPIES), number).map_err(failed)?,
        };
        let target = make_target(&own, &file.path).map_err(failed)?;
        mount(&source, &target).map_err(failed)?;
        tracing::debug!(layer, path = %file.path.display(), "a file of the image is mounted");
    }
    Ok(is_elsewhere)
}

/// Mounts a root filesystem that a client has mounted elsewhere, as Docker does, in the bundle. Only there all mounts are removed at the
/// end. Mounts in it do not show at the client's place.
fn take_over(root: &Path, own: &Path) -> io::Result<()> {
    fs::create_dir_all(own)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, root, flags)?;
    Change { propagation: libc::MS_PRIVATE, ..Change::default() }.apply(&tree, true)?;
    Ok(move_mount(tree.as_fd(), "", CWD, own, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Removes the copies from a bundle. A bundle without copies is no error.
///
/// # Errors
/// The folder cannot be removed.
pub(super) fn remove_copies(bundle: &Path) -> io::Result<()> {
    match fs::remove_dir_all(bundle.join(COPIES)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Finds a mount of the spec at the path, at a parent of it, or below it.
fn mount_in_the_way(spec: &Spec, path: &Path) -> Option<PathBuf> {
    let mounts = spec.mounts().iter().flatten();
    mounts.map(|mount| plain(mount.destination())).find(|destination| overlap(destination, path))
}

/// Writes a destination without `.`, `..` and repeated slashes, as an absolute path.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => drop(plain.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain
}

/// Copies a blob that is only in memory to a file that can be mounted and that no user can write.
fn copy(blob: &File, folder: &Path, number: usize) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    let path = folder.join(number.to_string());
    let mut options = File::options();
    let mut file = options.write(true).create_new(true).mode(0o444).open(&path)?;
    io::copy(&mut &*blob, &mut file)?;
    File::open(path)
}

/// Makes the mount point, a file, and the folders on its path, with the owner of the root filesystem. Follows no link, because the image
/// may have put one there.
fn make_target(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut parent = open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let owner = fstat(&parent)?;
    let own = |fd: &OwnedFd| {
        let (user, group) = (rustix::fs::Uid::from_raw(owner.st_uid), rustix::fs::Gid::from_raw(owner.st_gid));
        fchown(fd, Some(user), Some(group))
    };
    let names: Vec<_> = path.strip_prefix("/").map_err(io::Error::other)?.iter().collect();
    let Some((last, above)) = names.split_last() else { return Err(Errno::ISDIR.into()) };
    for name in above {
        let is_new = match mkdirat(&parent, *name, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        let flags = if is_new { folder - OFlags::PATH } else { folder };
        parent = openat(&parent, *name, flags, Mode::empty())?;
        if is_new {
            own(&parent)?;
        }
    }
    let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&parent, *last, new, Mode::from_raw_mode(0o444)) {
        Ok(file) => own(&file)?,
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let target = openat(&parent, *last, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    match FileType::from_raw_mode(fstat(&target)?.st_mode) {
        FileType::RegularFile => Ok(target),
        _ => Err(Errno::NOTDIR.into()),
    }
}

/// Mounts the open file itself, even if its name has changed meanwhile.
fn mount(source: &File, target: &OwnedFd) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", source.as_raw_fd());
    let tree = open_tree(CWD, &path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    Change::set(ATTRIBUTES).apply(&tree, false)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree.as_fd(), "", target.as_fd(), "", flags)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A folder that is removed on drop.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("prewasi-data-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A mount at the path, at a parent or below it is a conflict, however its destination is written.
    #[test]
    fn mounts_in_the_way() {
        let in_the_way = |destination: &str, path: &str| {
            let spec = serde_json::json!({"ociVersion": "1.1.0", "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": destination, "type": "bind", "source": "/tmp"},
            ]});
            let spec: Spec = serde_json::from_value(spec).unwrap();
            mount_in_the_way(&spec, Path::new(path))
        };
        for destination in
            ["/data", "/data/", "//data/.", "data", "/x/../data", "/data/model.bin", "/data/model.bin/x", "/"]
        {
            assert!(in_the_way(destination, "/data/model.bin").is_some(), "{destination}");
        }
        for destination in ["/data2", "/data/model", "/dat"] {
            assert_eq!(in_the_way(destination, "/data/model.bin"), None, "{destination}");
        }
        assert_eq!(in_the_way("/tmp", "/proc/1"), Some("/proc".into()));
    }

    /// Folders and file are made below the root. A link, or a file in the place of a folder, is an error.
    #[test]
    fn targets_are_made_without_following() {
        let folder = Folder::new("targets");
        let (root, path) = (folder.path(), |name: &str| folder.path().join(name));
        make_target(root, Path::new("/a/b/file")).unwrap();
        let mode = |name: &str| fs::symlink_metadata(path(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("a"), mode("a/b")), (0o755, 0o755));
        assert!(path("a/b/file").is_file());
        // An existing file of the image is mounted over.
        make_target(root, Path::new("/a/b/file")).unwrap();
        symlink("/etc", path("link")).unwrap();
        symlink("a/b/file", path("name")).unwrap();
        symlink("/nowhere/file", path("dangling")).unwrap();
        for odd in ["/link/file", "/link/deep/file", "/a/b/file/below", "/a", "/name", "/dangling", "/link"] {
            let error = make_target(root, Path::new(odd)).unwrap_err();
            assert!(matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)), "{odd}: {error}");
        }
        assert!(!Path::new("/etc/file").exists() && !Path::new("/etc/deep").exists());
    }

    /// A copy has the same bytes, cannot be written by other users, and disappears with `remove_copies`.
    #[test]
    fn copies_go_with_the_bundle() {
        let bundle = Folder::new("copies");
        let blob = bundle.path().join("blob");
        fs::write(&blob, "bytes").unwrap();
        let folder = bundle.path().join(COPIES);
        let file = copy(&File::open(&blob).unwrap(), &folder, 0).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o222, 0);
        assert_eq!(io::read_to_string(file).unwrap(), "bytes");
        assert!(copy(&File::open(&blob).unwrap(), &folder, 0).is_err(), "a copy is made once");
        remove_copies(bundle.path()).unwrap();
        assert!(!folder.exists());
        remove_copies(bundle.path()).unwrap();
    }
}
