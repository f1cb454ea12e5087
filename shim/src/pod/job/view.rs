//! The root filesystem as the processes of the container see it, in which programs are looked for.
//!
//! A process that is executed later is looked up below the root of the container's first one, where all is mounted. When the container
//! is being created, the mounts of its spec are still to be made. A thread makes them then, in a mount namespace of its own that ends
//! with it, and looks there: so the kernel itself resolves mounts over mounts and links on the way, once as it will for the container.
//! No mount of this is ever seen by anybody else. What a file system of the kernel's or an empty one will hide is hidden here, too.
//! A mount namespace costs more the more mounts the node has. So none is made where no mount and no link is on the program's way.
//!
//! Root filesystem and volumes are hostile: links are resolved as if the root filesystem were `/`, for what is mounted on, too.

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

/// Types of mounts that show something of the kernel's own: no program that this shim could run.
const OF_KERNEL: [&str; 9] =
    ["proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts", "devtmpfs", "debugfs", "securityfs"];
/// Types of mounts that are empty when they are made.
const EMPTY: [&str; 2] = ["tmpfs", "ramfs"];
/// The option by which an empty file system gets what lies below it.
const COPIES: &str = "tmpcopyup";

/// Where programs of a container are looked for.
pub(super) enum View<'a> {
    /// In a running container, by the root of one of its processes.
    Running(PathBuf),
    /// In one that is being created.
    Planned {
        /// The root filesystem, without any mount of the spec.
        root: PathBuf,
        spec: &'a Spec,
        bundle: &'a Path,
    },
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) file: Option<File>,
    /// Mounts that could not be looked into, each with its reason, for people who miss a file.
    pub(super) unseen: Vec<String>,
}

impl View<'_> {
    /// Returns the root filesystem.
    pub(super) fn root(&self) -> &Path {
        match self {
            Self::Running(root) | Self::Planned { root, .. } => root,
        }
    }

    /// Looks for the program of an entrypoint.
    ///
    /// # Errors
    /// What the system says, other than that there is no such file.
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

/// Says whether paths lead to the same files with the mounts as without: none of them passes a link or a folder that is mounted on.
/// In doubt it says no.
fn is_plain(root: &Path, mounts: &[Mount], paths: &[PathBuf]) -> io::Result<bool> {
    let folder = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // Folders in which a link may lie that nobody sees yet.
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

/// Returns where a path leads in the root filesystem, with its links resolved; what is missing will be made there. `None` if that
/// cannot be said.
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
            // A link that leads nowhere is there without being followed.
            let is_missing =
                open_in(root, &missing, ResolveFlags::NO_SYMLINKS).is_err_and(|error| error == Errno::NOENT);
            Ok(is_missing.then_some(missing))
        }
        Err(_) => Ok(None),
    }
}

/// Opens what a path leads to in a root filesystem, without reading it.
fn open_in(root: &OwnedFd, path: &Path, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // The kernel wants to be asked again when something was renamed meanwhile.
            Err(Errno::INTR | Errno::AGAIN) => {}
            found => return found,
        }
    }
}

/// Makes the mounts for this thread alone, and looks.
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
            tracing::debug!(%error, destination = %mount.destination().display(), "a mount is not looked into");
            unseen.push(format!("{}: {error}", mount.destination().display()));
        }
    }
    Ok(Found { file: look(root)?, unseen })
}

/// Mounts what the spec describes, as far as programs may lie there.
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
        // Folders for later mounts are made in it.
        return Ok(nix::mount::mount(Some("prewasi"), path.as_str(), Some("tmpfs"), MsFlags::empty(), None::<&str>)?);
    }
    let options = options.iter().filter(|option| !is_for_runtimes(option)).cloned().collect();
    let source = mount.source().as_deref().unwrap_or(Path::new("none")).display().to_string();
    let mount = mounts::Mount { kind: kind.to_owned(), source, target: String::new(), options };
    mounts::mount_all(&[mount], Path::new(&path)).map_err(io::Error::other)
}

/// Says whether an option tells a runtime something, and not a file system.
fn is_for_runtimes(option: &str) -> bool {
    const PROPAGATION: [&str; 4] = ["private", "slave", "shared", "unbindable"];
    const RECURSIVE: [&str; 8] = ["ro", "rw", "nosuid", "nodev", "noexec", "noatime", "norelatime", "nosymfollow"];
    let rest = option.strip_prefix('r');
    PROPAGATION.contains(&option)
        || rest.is_some_and(|rest| PROPAGATION.contains(&rest) || RECURSIVE.contains(&rest))
        || ["idmap", "ridmap", COPIES].contains(&option)
}

/// Opens what is mounted on, and makes it if it is not there, as the container's runtime does later: with the owner that the root
/// filesystem has.
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
        // A link that leads nowhere, or somebody else was faster.
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

    /// What is mounted on is found through links of the image, made where it is missing, and never outside the root filesystem.
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

    /// A program is looked for without the mounts only if none of them, and no link, is on its way.
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
        // A folder on the way, or the file.
        for destination in ["/app", "app", "/link", "/", "/app/a.wasm", "/app/../app", "/link/a.wasm"] {
            assert!(!is_plain("/app/a.wasm", &[("bind", destination)]), "{destination}");
        }
        assert!(!is_plain("/run/secrets/a.wasm", &[("bind", "/var/run/secrets")]));
        // A link that nobody sees yet may lie in a volume, and lead anywhere.
        assert!(!is_plain("/app/a.wasm", &[("bind", "/volume"), ("bind", "/volume/folder")]));
        assert!(!is_plain("/app/a.wasm", &[("bind", "/dangling")]));
        // Links and dots on the program's own way.
        assert!(!is_plain("/link/a.wasm", &usual));
        assert!(!is_plain("/app/sub/../a.wasm", &usual));
        fs::remove_dir_all(folder).unwrap();
    }

    /// Options that tell a runtime something are not for a file system.
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
