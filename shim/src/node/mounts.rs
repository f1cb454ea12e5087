//! Mounts and unmounts the root filesystem that containerd's snapshotter describes.

mod attributes;
mod mapped;
pub(crate) mod users;

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::OpenTreeFlags;
use serde::{Deserialize, Serialize};

pub(crate) use attributes::{Change, map_ids};

/// Longest options that mount(2) reads, in bytes: one page with the terminating byte.
const DATA_MAX: usize = 4095;

/// One mount in containerd's notation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    /// `overlay`, `bind`, or another file system type of the kernel.
    pub(crate) kind: String,
    pub(crate) source: String,
    /// Path below the root filesystem; usually empty.
    pub(crate) target: String,
    /// Options as in `mount -o`.
    pub(crate) options: Vec<String>,
}

/// The reason why a root filesystem cannot be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("cannot use folder {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount {kind} on {}: target {target:?} leaves the root filesystem", path.display())]
    Target { kind: String, path: PathBuf, target: String },
    #[error("cannot mount {kind} on {}: option {option:?} needs a program that this shim does not have", path.display())]
    Option { kind: String, path: PathBuf, option: String },
    #[error("cannot mount {kind} on {} ({options})", path.display())]
    Mount {
        kind: String,
        path: PathBuf,
        options: String,
        #[source]
        source: Errno,
    },
    #[error("cannot mount {kind} on {} ({options}): its mappings of ids must be `uidmap` and `gidmap`, each `container:host:size`", path.display())]
    Mapping { kind: String, path: PathBuf, options: String },
    #[error("cannot mount {kind} on {} with mapped ids", path.display())]
    Mapped {
        kind: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the list of mounts")]
    List(#[source] io::Error),
    #[error("cannot unmount {}", path.display())]
    Unmount {
        path: PathBuf,
        #[source]
        source: Errno,
    },
}

/// Makes all mounts on `rootfs`, in order. Changes the working directory temporarily.
///
/// # Errors
/// [`MountError`]; the mounts made so far stay, and the caller unmounts them.
pub(crate) fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<(), MountError> {
    if mounts.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(rootfs).map_err(|source| MountError::Folder { path: rootfs.to_owned(), source })?;
    tracing::debug!(?mounts, "mounting the root filesystem");
    mounts.iter().try_for_each(|mount| match mapped::take(mount, rootfs)? {
        Some((plain, uids, gids)) => mapped::mount_mapped(&plain, &uids, &gids, rootfs),
        None => mount.mount(rootfs),
    })
}

/// Makes device files in a mounted root filesystem unusable. Mounts below it are not changed.
///
/// # Errors
/// The system's error; it needs Linux 5.12.
pub(crate) fn forbid_devices(rootfs: &Path) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, rootfs, flags)?;
    Change::set(libc::MOUNT_ATTR_NODEV).apply(tree, false)
}

/// Unmounts `rootfs` and all mounts below it. A folder without mounts is no error.
///
/// # Errors
/// [`MountError`] if a mount stays.
pub(crate) fn unmount_all(rootfs: &Path) -> Result<(), MountError> {
    let list = fs::read("/proc/self/mountinfo").map_err(MountError::List)?;
    for path in mounts_below(&list, rootfs).into_iter().rev() {
        let result = match umount2(&path, MntFlags::UMOUNT_NOFOLLOW) {
            // The mount is in use; it disappears with its last user.
            Err(Errno::EBUSY) => umount2(&path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH),
            other => other,
        };
        match result {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(source) => return Err(MountError::Unmount { path, source }),
        }
    }
    Ok(())
}

impl Mount {
    fn mount(&self, rootfs: &Path) -> Result<(), MountError> {
        let path = self.path(rootfs)?;
        let target = self.target(rootfs, &path)?;
        let (mut flags, data) = self.flags_and_data(&path)?;
        let is_bind = matches!(self.kind.as_str(), "bind" | "rbind");
        if is_bind {
            flags |= MsFlags::MS_BIND;
        }
        let kind = (!is_bind).then_some(self.kind.as_str());
        let failed = |options: &str| {
            let (kind, path, options) = (self.kind.clone(), path.clone(), options.to_owned());
            move |source| MountError::Mount { kind, path, options, source }
        };
        let (folder, data) = shorten(&data);
        if let Some(folder) = folder {
            std::env::set_current_dir(&folder).map_err(|source| MountError::Folder { path: folder, source })?;
        }
        let result = mount(Some(self.source.as_str()), &descriptor(&target), kind, flags, Some(data.as_str()))
            .map_err(failed(&data));
        // The root directory keeps no mount busy.
        let root = std::env::set_current_dir("/");
        result?;
        root.map_err(|source| MountError::Folder { path: "/".into(), source })?;
        if flags.contains(MsFlags::MS_BIND | MsFlags::MS_RDONLY) {
            // The kernel applies other flags of a bind mount only at a second mount call.
            let again = flags | MsFlags::MS_REMOUNT;
            // The descriptor opened before refers to the folder under the new mount.
            let mounted = self.target(rootfs, &path)?;
            mount(None::<&str>, &descriptor(&mounted), None::<&str>, again, None::<&str>).map_err(failed("ro"))?;
        }
        Ok(())
    }

    fn path(&self, rootfs: &Path) -> Result<PathBuf, MountError> {
        let below = self.target.trim_start_matches('/');
        let leaves = Path::new(below).components().any(|part| !matches!(part, std::path::Component::Normal(_)));
        if leaves {
            let (kind, target) = (self.kind.clone(), self.target.clone());
            return Err(MountError::Target { kind, path: rootfs.to_owned(), target });
        }
        Ok(if below.is_empty() { rootfs.to_owned() } else { rootfs.join(below) })
    }

    /// Opens the mount point. Links of an image may lie on its path; they must not lead out of the root filesystem.
    fn target(&self, rootfs: &Path, path: &Path) -> Result<OwnedFd, MountError> {
        let failed = |error: rustix::io::Errno| MountError::Folder { path: path.to_owned(), source: error.into() };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = rustix::fs::open(rootfs, flags | OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
        let below = self.target.trim_start_matches('/');
        if below.is_empty() {
            return Ok(root);
        }
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&root, below, flags, Mode::empty(), resolve).map_err(failed)
    }

    fn flags_and_data(&self, path: &Path) -> Result<(MsFlags, String), MountError> {
        let mut flags = MsFlags::empty();
        let mut data = Vec::new();
        for option in &self.options {
            match option.as_str() {
                "loop" => {
                    let (kind, option) = (self.kind.clone(), option.clone());
                    return Err(MountError::Option { kind, path: path.to_owned(), option });
                }
                option => match flag(option) {
                    Some((true, flag)) => flags |= flag,
                    Some((false, flag)) => flags -= flag,
                    None => data.push(option),
                },
            }
        }
        Ok((flags, data.join(",")))
    }
}

/// Returns the path of an open descriptor, for calls that take a path.
fn descriptor(target: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", target.as_raw_fd()).into()
}

/// Translates an option to a flag, and whether it is set or cleared; `None` if the option is for the file system itself.
fn flag(option: &str) -> Option<(bool, MsFlags)> {
    Some(match option {
        "defaults" => (true, MsFlags::empty()),
        "ro" => (true, MsFlags::MS_RDONLY),
        "rw" => (false, MsFlags::MS_RDONLY),
        "bind" => (true, MsFlags::MS_BIND),
        "rbind" => (true, MsFlags::MS_BIND | MsFlags::MS_REC),
        "nosuid" => (true, MsFlags::MS_NOSUID),
        "suid" => (false, MsFlags::MS_NOSUID),
        "nodev" => (true, MsFlags::MS_NODEV),
        "dev" => (false, MsFlags::MS_NODEV),
        "noexec" => (true, MsFlags::MS_NOEXEC),
        "exec" => (false, MsFlags::MS_NOEXEC),
        "sync" => (true, MsFlags::MS_SYNCHRONOUS),
        "async" => (false, MsFlags::MS_SYNCHRONOUS),
        "dirsync" => (true, MsFlags::MS_DIRSYNC),
        "noatime" => (true, MsFlags::MS_NOATIME),
        "atime" => (false, MsFlags::MS_NOATIME),
        "nodiratime" => (true, MsFlags::MS_NODIRATIME),
        "diratime" => (false, MsFlags::MS_NODIRATIME),
        "relatime" => (true, MsFlags::MS_RELATIME),
        "norelatime" => (false, MsFlags::MS_RELATIME),
        "strictatime" => (true, MsFlags::MS_STRICTATIME),
        "nostrictatime" => (false, MsFlags::MS_STRICTATIME),
        _ => return None,
    })
}

/// Shortens the options of an overlay with many layers: paths of lower folders become relative to their common parent.
fn shorten(data: &str) -> (Option<PathBuf>, String) {
    const LOWER: &str = "lowerdir=";
    let lower = data.split(',').find_map(|option| option.strip_prefix(LOWER));
    let (true, Some(lower)) = (data.len() > DATA_MAX, lower) else { return (None, data.to_owned()) };
    let mut layers = lower.split(':');
    let first = layers.next().unwrap_or_default();
    let shared = layers.fold(first.rfind('/').map_or("", |end| &first[..=end]), |shared, layer| {
        let same = shared.bytes().zip(layer.bytes()).take_while(|(a, b)| a == b).count();
        shared.get(..same).and_then(|same| same.rfind('/').map(|end| &same[..=end])).unwrap_or_default()
    });
    if shared.len() < 2 {
        return (None, data.to_owned());
    }
    let relative: Vec<&str> = lower.split(':').map(|layer| &layer[shared.len()..]).collect();
    (Some(shared.into()), data.replacen(lower, &relative.join(":"), 1))
}

/// Lists mount points at and below a folder, in the order of mounting.
fn mounts_below(list: &[u8], folder: &Path) -> Vec<PathBuf> {
    let lines = list.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescape);
    points.filter(|point| point.starts_with(folder)).collect()
}

/// Resolves escapes such as `\040`, with which the kernel writes spaces and backslashes.
pub(crate) fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) if byte == b'\\' => {
                bytes.push(escaped);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &[&str]) -> Mount {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Mount { kind: "overlay".into(), source: "overlay".into(), options, ..Mount::default() }
    }

    /// Options become flags or data; a later one overrides an earlier one.
    #[test]
    fn options() {
        let mount = overlay(&["ro", "nodev", "index=off", "dev", "upperdir=/u", "noatime"]);
        let (flags, data) = mount.flags_and_data(Path::new("/r")).unwrap();
        assert_eq!(flags, MsFlags::MS_RDONLY | MsFlags::MS_NOATIME);
        assert_eq!(data, "index=off,upperdir=/u");
        let error = overlay(&["loop"]).flags_and_data(Path::new("/r"));
        assert!(matches!(error, Err(MountError::Option { .. })));
    }

    /// A target stays below the root filesystem.
    #[test]
    fn targets() {
        let mount = |target: &str| Mount { target: target.to_owned(), ..Mount::default() };
        assert_eq!(mount("").path(Path::new("/r")).unwrap(), Path::new("/r"));
        assert_eq!(mount("/a/b").path(Path::new("/r")).unwrap(), Path::new("/r/a/b"));
        assert!(matches!(mount("a/../../b").path(Path::new("/r")), Err(MountError::Target { .. })));
    }

    /// Links of an image on the path of a target do not lead out of the root filesystem.
    #[test]
    fn links_lead_nowhere_else() {
        let folder = std::env::temp_dir().join(format!("prewasi-target-{}", std::process::id()));
        let root = folder.join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(folder.join("outside")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../outside", root.join("up")).unwrap();
        let open = |target: &str| {
            let mount = Mount { target: target.to_owned(), ..Mount::default() };
            let opened = mount.target(&root, &root.join(target.trim_start_matches('/')));
            opened.map(|opened| fs::read_link(descriptor(&opened)).unwrap())
        };
        assert_eq!(open("").unwrap(), root);
        assert_eq!(open("/absolute").unwrap(), root.join("etc"));
        assert!(matches!(open("up"), Err(MountError::Folder { path, .. }) if path == root.join("up")));
        fs::remove_dir_all(folder).unwrap();
    }

    /// The options of many layers are shortened to less than a page and still name the same folders.
    #[test]
    fn many_layers_fit() {
        let layers: Vec<String> = (0..150).map(|n| format!("/var/lib/containerd/snapshots/{n}/fs")).collect();
        let data = format!("index=off,upperdir=/u,lowerdir={}", layers.join(":"));
        let (folder, short) = shorten(&data);
        assert_eq!(folder.as_deref(), Some(Path::new("/var/lib/containerd/snapshots/")));
        assert!(short.len() <= DATA_MAX && short.starts_with("index=off,upperdir=/u,lowerdir=0/fs:1/fs"), "{short}");
        let few = "lowerdir=/a/1:/a/2";
        assert_eq!(shorten(few), (None, few.to_owned()));
    }

    /// Mounts are found by whole path components, spaces included, in the order of mounting.
    #[test]
    fn finds_mounts() {
        let list = b"1 0 0:1 / / rw - ext4 d rw\n\
            2 1 0:2 / /b/root\\040fs rw - overlay o rw\n\
            3 2 0:3 / /b/root\\040fs/x rw - tmpfs t rw\n\
            4 1 0:4 / /b/root\\040fs2 rw - tmpfs t rw\n";
        let found = mounts_below(list, Path::new("/b/root fs"));
        assert_eq!(found, [Path::new("/b/root fs"), Path::new("/b/root fs/x")]);
    }
}
