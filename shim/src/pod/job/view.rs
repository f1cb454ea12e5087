//! The root filesystem as the container's processes see it. The lookup of a program happens there.
//!
//! A process that is executed in a running container is looked up below the root of the container's init, where everything is mounted.
//! When the container is being created, the mounts of its spec do not exist yet. A thread then makes them in a mount namespace of its
//! own, which ends with the thread, and looks there. So the kernel itself resolves links and stacked mounts, with the result that the
//! container will have. No other process sees these mounts. Files that will be hidden by an empty file system, or by one of the kernel's,
//! are hidden here too.
//!
//! The cost of a mount namespace grows with the number of the node's mounts. So none is made if the program's path passes neither a mount
//! nor a link.
//!
//! Root filesystem and volumes are hostile: links are resolved as if the root filesystem were `/`, also for mount points.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::thread;

use libcontainer::oci_spec::runtime::{Mount, Spec};
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::node::mounts;
use crate::pod::entrypoint::Entrypoint;

/// Types of mounts that show the kernel's state: they hold no program that this shim could run.
const OF_KERNEL: [&str; 9] =
    ["proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts", "devtmpfs", "debugfs", "securityfs"];
/// Types of mounts that are empty when they are made.
const EMPTY: [&str; 2] = ["tmpfs", "ramfs"];
/// The mount option that fills an empty file system with a copy of the files below it.
const COPIES: &str = "tmpcopyup";

/// The place in which a container's programs are looked up.
pub(super) enum View<'a> {
    /// A running container: the root of one of its processes.
    Running(PathBuf),
    /// A container that is being created.
    Planned {
        /// The root filesystem, without any mount of the spec.
        root: PathBuf,
        spec: &'a Spec,
        bundle: &'a Path,
    },
}

/// The result of a lookup.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) file: Option<File>,
    /// Mounts that could not be searched, each with the reason, for the message about a missing file.
    pub(super) unseen: Vec<String>,
}

impl View<'_> {
    /// Returns the root filesystem.
    pub(super) fn root(&self) -> &Path {
        match self {
            Self::Running(root) | Self::Planned { root, .. } => root,
        }
    }

    /// Looks up the program of an entrypoint.
    ///
    /// # Errors
    /// The system's error, except that the file does not exist.
    pub(super) fn find(&self, entrypoint: &Entrypoint, cwd: &Path, search: &str) -> io::Result<Found> {
        match self {
            Self::Running(root) => Ok(Found { file: entrypoint.open(root, cwd, search)?, unseen: Vec::new() }),
            Self::Planned { root, spec, bundle } => {
                let mounts = spec.mounts().as_deref().unwrap_or_default();
                if is_plain(root, mounts, &entrypoint.candidates(cwd, search))? {
                    return Ok(Found { file: entrypoint.open(root, cwd, search)?, unseen: Vec::new() });
                }
                let look = || look_behind(root, mounts, bundle, |root| entrypoint.open(root, cwd, search));
                thread::scope(|scope| {
                    let looking = thread::Builder::new().spawn_scoped(scope, look)?;
                    looking
                        .join()
                        .unwrap_or_else(|_| Err(io::Error::other("the thread that looks for it has panicked")))
                })
            }
        }
    }
}

/// Returns whether paths lead to the same files with and without the mounts: no path passes a link or a mount point. Returns `false` in
/// doubt.
fn is_plain(root: &Path, mounts: &[Mount], paths: &[PathBuf]) -> io::Result<bool> {
    let folder = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // Folders of volumes: they may hold links that cannot be seen yet.
    let mut volumes: Vec<PathBuf> = Vec::new();
    for mount in mounts {
        let Some(place) = place(&folder, mount.destination())? else { return Ok(false) };
        if paths.iter().any(|path| path.starts_with(&place))
            || volumes.iter().any(|volume| place != *volume && place.starts_with(volume))
        {
            return Ok(false);
        }
        let kind = mount.typ().as_deref().unwrap_or_default();
        if !OF_KERNEL.contains(&kind) && !EMPTY.contains(&kind) {
            volumes.push(place);
        }
    }
    for path in paths {
        let passes_link = match open_in(&folder, path, ResolveFlags::NO_SYMLINKS) {
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => false,
            Err(_) => true,
        };
        if passes_link || path.components().any(|part| part == Component::ParentDir) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns where a path leads in the root filesystem, with its links resolved; missing folders will be made there. `None` if the path
/// cannot be resolved.
fn place(root: &OwnedFd, path: &Path) -> io::Result<Option<PathBuf>> {
    match open_in(root, path, ResolveFlags::empty()) {
        Ok(found) => {
            let [root, found] =
                [root, &found].map(|folder| std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())));
            Ok(found?.strip_prefix(root?).ok().map(|below| Path::new("/").join(below)))
        }
        Err(Errno::NOENT) => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
            let Some(parent) = place(root, parent)? else { return Ok(None) };
            let missing = parent.join(name);
            // A dangling link is present without being followed.
            let is_missing =
                open_in(root, &missing, ResolveFlags::NO_SYMLINKS).is_err_and(|error| error == Errno::NOENT);
            Ok(is_missing.then_some(missing))
        }
        Err(_) => Ok(None),
    }
}

/// Opens the target of a path in a root filesystem, without access to its content.
fn open_in(root: &OwnedFd, path: &Path, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // After a concurrent rename the kernel wants the call to be repeated.
            Err(Errno::INTR | Errno::AGAIN) => {}
            found => return found,
        }
    }
}

/// Makes the mounts for this thread alone, and looks the program up there.
fn look_behind(
    root: &Path,
    mounts: &[Mount],
    bundle: &Path,
    look: impl FnOnce(&Path) -> io::Result<Option<File>>,
) -> io::Result<Found> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    let mut unseen = Vec::new();
    for mount in mounts {
        if let Err(error) = attach(root, mount, bundle) {
            tracing::debug!(%error, destination = %mount.destination().display(), "cannot look for the entrypoint in a mount");
            unseen.push(format!("{}: {error}", mount.destination().display()));
        }
    }
    Ok(Found { file: look(root)?, unseen })
}

/// Makes a mount of the spec, if it may hold programs.
fn attach(root: &Path, mount: &Mount, bundle: &Path) -> io::Result<()> {
    let options = mount.options().as_deref().unwrap_or_default();
    let has = |wanted: &str| options.iter().any(|option| option == wanted);
    let kind = mount.typ().as_deref().unwrap_or_default();
    let folder = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if kind == "bind" || has("bind") || has("rbind") {
        let source = bundle.join(mount.source().as_deref().unwrap_or(Path::new("")));
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags.set(OpenTreeFlags::AT_RECURSIVE, !has("bind") || has("rbind"));
        let tree = open_tree(CWD, &source, flags)?;
        let is_folder = FileType::from_raw_mode(fstat(&tree)?.st_mode) == FileType::Directory;
        let target = target(&folder, mount.destination(), is_folder)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        return Ok(move_mount(tree.as_fd(), "", target.as_fd(), "", flags)?);
    }
    if EMPTY.contains(&kind) && has(COPIES) {
        return Ok(());
    }
    let target = target(&folder, mount.destination(), true)?;
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    if OF_KERNEL.contains(&kind) || EMPTY.contains(&kind) {
        // Later mount points are created in this file system.
        return Ok(nix::mount::mount(Some("prewasi"), path.as_str(), Some("tmpfs"), MsFlags::empty(), None::<&str>)?);
    }
    let options = options.iter().filter(|option| !is_for_runtimes(option)).cloned().collect();
    let source = mount.source().as_deref().unwrap_or(Path::new("none")).display().to_string();
    let mount = mounts::Mount { kind: kind.to_owned(), source, target: String::new(), options };
    mounts::mount_all(&[mount], Path::new(&path)).map_err(io::Error::other)
}

/// Returns whether an option is meant for the runtime rather than for the file system.
fn is_for_runtimes(option: &str) -> bool {
    const PROPAGATION: [&str; 4] = ["private", "slave", "shared", "unbindable"];
    const RECURSIVE: [&str; 8] = ["ro", "rw", "nosuid", "nodev", "noexec", "noatime", "norelatime", "nosymfollow"];
    let rest = option.strip_prefix('r');
    PROPAGATION.contains(&option)
        || rest.is_some_and(|rest| PROPAGATION.contains(&rest) || RECURSIVE.contains(&rest))
        || ["idmap", "ridmap", COPIES].contains(&option)
}

/// Opens a mount point, and makes it if it does not exist, as the container's runtime will: with the owner of the root filesystem.
fn target(root: &OwnedFd, path: &Path, is_folder: bool) -> io::Result<OwnedFd> {
    match open_in(root, path, ResolveFlags::empty()) {
        Err(Errno::NOENT) => {}
        found => return Ok(found?),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL.into()) };
    let parent = target(root, parent, true)?;
    let owner = fstat(root)?;
    let made = if is_folder {
        mkdirat(&parent, name, Mode::from_raw_mode(0o755))
    } else {
        let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&parent, name, new, Mode::from_raw_mode(0o644)).map(drop)
    };
    match made {
        Ok(()) => {
            let (user, group) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
            chownat(&parent, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        // A dangling link, or another process made it first.
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(open_in(root, path, ResolveFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Mount points are found through links of the image, created where they are missing, and never outside the root filesystem.
    #[test]
    fn targets_stay_inside() {
        let folder = std::env::temp_dir().join(format!("prewasi-view-{}", std::process::id()));
        fs::create_dir_all(folder.join("root/srv")).unwrap();
        fs::create_dir_all(folder.join("outside")).unwrap();
        symlink("/srv", folder.join("root/app")).unwrap();
        symlink("../../outside", folder.join("root/up")).unwrap();
        symlink("/nowhere", folder.join("root/dangling")).unwrap();
        let root = rustix::fs::open(folder.join("root"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let opened = |path: &str, is_folder| {
            let opened = target(&root, Path::new(path), is_folder)?;
            fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))
        };
        assert_eq!(opened("/app", true).unwrap(), folder.join("root/srv"));
        assert_eq!(opened("/app/a/b", true).unwrap(), folder.join("root/srv/a/b"));
        assert_eq!(opened("app/a/file", false).unwrap(), folder.join("root/srv/a/file"));
        assert!(folder.join("root/srv/a/file").is_file());
        assert!(opened("/up/x", true).is_err() && opened("/dangling/x", true).is_err());
        assert_eq!(fs::read_dir(folder.join("outside")).unwrap().count(), 0);
        fs::remove_dir_all(folder).unwrap();
    }

    /// The lookup skips the mounts only if the program's path passes no mount and no link.
    #[test]
    fn mounts_on_the_way() {
        let folder = std::env::temp_dir().join(format!("prewasi-view-way-{}", std::process::id()));
        fs::create_dir_all(folder.join("run")).unwrap();
        fs::create_dir_all(folder.join("app/sub")).unwrap();
        fs::create_dir_all(folder.join("var")).unwrap();
        fs::write(folder.join("app/a.wasm"), "").unwrap();
        symlink("/app", folder.join("link")).unwrap();
        symlink("../run", folder.join("var/run")).unwrap();
        symlink("/nowhere", folder.join("dangling")).unwrap();
        let is_plain = |path: &str, mounts: &[(&str, &str)]| {
            let mounts: Vec<Mount> = mounts
                .iter()
                .map(|(kind, destination)| {
                    serde_json::from_value(serde_json::json!({"type": kind, "source": "/", "destination": destination}))
                        .unwrap()
                })
                .collect();
            super::is_plain(&folder, &mounts, &[PathBuf::from(path)]).unwrap()
        };
        let usual = [("proc", "/proc"), ("tmpfs", "/dev"), ("mqueue", "/dev/mqueue"), ("bind", "/etc/hosts")];
        assert!(is_plain("/app/a.wasm", &[]));
        assert!(is_plain("/app/a.wasm", &usual));
        assert!(is_plain("/app/missing", &usual));
        assert!(is_plain("/app/a.wasm", &[("bind", "/var/run/secrets/token")]));
        assert!(is_plain("/app/a.wasm", &[("bind", "/app/sub"), ("bind", "/app/other")]));
        // A folder on the path, or the file.
        for destination in ["/app", "app", "/link", "/", "/app/a.wasm", "/app/../app", "/link/a.wasm"] {
            assert!(!is_plain("/app/a.wasm", &[("bind", destination)]), "{destination}");
        }
        assert!(!is_plain("/run/secrets/a.wasm", &[("bind", "/var/run/secrets")]));
        // A volume may hold a link that cannot be seen yet and leads anywhere.
        assert!(!is_plain("/app/a.wasm", &[("bind", "/volume"), ("bind", "/volume/folder")]));
        assert!(!is_plain("/app/a.wasm", &[("bind", "/dangling")]));
        // Links and dots on the program's own path.
        assert!(!is_plain("/link/a.wasm", &usual));
        assert!(!is_plain("/app/sub/../a.wasm", &usual));
        fs::remove_dir_all(folder).unwrap();
    }

    /// Options for the runtime are not passed to the file system.
    #[test]
    fn options_for_runtimes() {
        for option in ["rprivate", "rslave", "shared", "rro", "rnosuid", "idmap", "tmpcopyup"] {
            assert!(is_for_runtimes(option), "{option}");
        }
        for option in ["ro", "rw", "relatime", "lowerdir=/a", "nosuid", "bind"] {
            assert!(!is_for_runtimes(option), "{option}");
        }
    }
}
