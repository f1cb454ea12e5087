//! Checks of a root filesystem before libcontainer builds a container in it.
//!
//! libcontainer makes and removes links in `/dev` by a joined path, while the process still has the node's root. If the image's `/dev` is
//! a link, that path leads to a folder of the node. libcontainer mounts `/proc` and `/sys` where a link of the image leads. It masks
//! parts of them later by name, and that name may lead elsewhere. No other process has access to the root filesystem yet, so the result
//! of a check stays valid. runc refuses such links as well.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;

use crate::pod::spec;

/// Types of mounts that show the kernel's own state.
const OF_KERNEL: [&str; 2] = ["proc", "sysfs"];

/// The reason why no container can be built in a root filesystem.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootError {
    #[error("cannot use the root filesystem of the image: {} in it is a link, or not a folder", path.display())]
    NoFolder { path: PathBuf },
    #[error("cannot look at {} in the root filesystem", path.display())]
    Look {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Checks `/dev` and the destination of each mount that shows the kernel's state. Each must be missing, or a folder that is reached
/// through folders alone.
///
/// # Errors
/// [`RootError`] names the path.
pub(super) fn check(root: &Path, spec: &Spec) -> Result<(), RootError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: Errno| RootError::Look { path, source: error.into() }
    };
    let folder = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed(root))?;
    let is_of_kernel = |kind: &Option<String>| kind.as_deref().is_some_and(|kind| OF_KERNEL.contains(&kind));
    let mounts = spec.mounts().iter().flatten().filter(|mount| is_of_kernel(mount.typ()));
    for path in mounts.map(|mount| mount.destination().as_path()).chain([Path::new("/dev")]) {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        match openat2(folder.as_fd(), path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(found) => {
                let stat = fstat(found).map_err(failed(path))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Err(RootError::NoFolder { path: path.to_owned() });
                }
            }
            Err(Errno::NOENT) => {}
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(RootError::NoFolder { path: path.to_owned() }),
            Err(error) => return Err(failed(path)(error)),
        }
    }
    Ok(())
}

/// Makes `/dev`, if nothing is mounted there and the image has none: libcontainer makes devices in it, but not the folder itself. The
/// folder belongs to the container's root user. [`check`] has excluded a link.
///
/// # Errors
/// [`RootError::Look`].
pub(super) fn make_dev(root: &Path, spec: &Spec) -> Result<(), RootError> {
    if spec::has_own_devices(spec) {
        return Ok(());
    }
    let path = root.join("dev");
    let made = match fs::create_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other.and_then(|()| match spec::root_on_node(spec) {
            Some((uid, gid)) => std::os::unix::fs::chown(&path, Some(uid), Some(gid)),
            None => Ok(()),
        }),
    };
    made.map_err(|source| RootError::Look { path: "/dev".into(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn spec(destination: &str) -> Spec {
        let text = format!(
            r#"{{"ociVersion":"1.0.2","mounts":[{{"destination":"{destination}","type":"proc","source":"proc"}},
                {{"destination":"/data","type":"bind","source":"/tmp"}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    /// A missing `/dev` is made unless something is mounted there.
    #[test]
    fn dev_is_made() {
        let root = std::env::temp_dir().join(format!("prewasi-dev-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        make_dev(&root, &spec("/dev")).unwrap();
        assert!(!root.join("dev").exists());
        for _ in 0..2 {
            make_dev(&root, &spec("/proc")).unwrap();
            assert!(root.join("dev").is_dir());
        }
        fs::remove_dir_all(root).unwrap();
    }

    /// Links and files are refused where libcontainer works by path. Folders and missing paths are accepted. Other mounts may lie behind
    /// links.
    #[test]
    fn links_are_refused() {
        let root = std::env::temp_dir().join(format!("prewasi-root-{}", std::process::id()));
        fs::create_dir_all(root.join("a/proc")).unwrap();
        symlink("/tmp", root.join("data")).unwrap();
        check(&root, &spec("/proc")).unwrap();
        check(&root, &spec("/a/proc")).unwrap();
        symlink("a", root.join("b")).unwrap();
        let refused = |destination: &str, path: &str| {
            let result = check(&root, &spec(destination));
            assert!(
                matches!(&result, Err(RootError::NoFolder { path: found }) if found == Path::new(path)),
                "{result:?}"
            );
        };
        refused("/b/proc", "/b/proc");
        symlink("/tmp", root.join("proc")).unwrap();
        refused("/proc", "/proc");
        fs::write(root.join("dev"), "").unwrap();
        refused("/a/proc", "/dev");
        fs::remove_file(root.join("dev")).unwrap();
        symlink("a", root.join("dev")).unwrap();
        refused("/a/proc", "/dev");
        fs::remove_dir_all(root).unwrap();
    }
}
