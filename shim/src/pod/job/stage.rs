//! The mount namespace in which libcontainer builds a container, and the mounts that are prepared there.
//!
//! libcontainer 0.7 mounts folders of the node into a container. It implements only a part of the demands that a spec can make, such as
//! propagation and id mapping. With cgroup v1 it also shows a container the cgroups of a wrong process. It takes the container's pid,
//! which counts in the container's pid namespace, for a pid of the node. So the helper makes these mounts itself, with all attributes of
//! the spec. It makes them in its own mount namespace, in a folder of the bundle. libcontainer gets a spec with these as sources. It
//! copies each of them, with all attributes, in the order of the spec, after `/proc` or `/dev`.
//!
//! Nothing has to be unmounted: the namespace ends with the helper. Only the empty folder stays in the bundle.
//!
//! libcontainer changes the propagation of all mounts: they become slaves of the node's mounts, or all become shared. If one mount must
//! be shared, all are; the others are corrected afterwards, in the container ([`Stage::finish`]).

mod bind;
mod groups;
mod late;
mod options;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Mount, MountBuilder, Spec};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, FileType, fstat};
use rustix::mount::{MoveMountFlags, move_mount};

use crate::node::cgroup::Claim;
use crate::pod::spec::{self, is_bind};
use bind::Users;
use groups::Hierarchies;
use late::Late;
use options::{MountOptions, Propagation};

/// Folder of the bundle that holds the prepared mounts.
const FOLDER: &str = "prewasi-mounts";
/// Type of a mount of the spec that shows the container's cgroups.
const CGROUP: &str = "cgroup";

/// The reason why the mounts of a container cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error(
        "cannot mount the root filesystem with rootfsPropagation {value:?}: it must be private, slave, shared or unbindable, or one of these with an r before it"
    )]
    Propagation { value: String },
    #[error(
        "cannot mount the root filesystem with rootfsPropagation runbindable: an unbindable mount cannot be mounted in a container"
    )]
    Unbindable,
    #[error("cannot make a mount namespace for the container")]
    Namespace(#[source] io::Error),
    #[error("cannot prepare the mounts of the container in {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount anything on {}: the spec names no source", destination.display())]
    NoSource { destination: PathBuf },
    #[error("cannot mount {} on {}", path.display(), destination.display())]
    Source {
        path: PathBuf,
        destination: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount {} on {} with options {options}", path.display(), destination.display())]
    Options {
        path: PathBuf,
        destination: PathBuf,
        options: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount {} on {} with mapped ids: {reason}", path.display(), destination.display())]
    NoMapping { path: PathBuf, destination: PathBuf, reason: &'static str },
    #[error("cannot mount {} on {} with mapped ids", path.display(), destination.display())]
    Mapping {
        path: PathBuf,
        destination: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount the container's cgroups at {}", destination.display())]
    Cgroups {
        destination: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot set the propagation of the container's mounts")]
    Finish(#[source] io::Error),
}

impl StageError {
    /// Returns whether the container's description is at fault rather than the node.
    pub(crate) fn is_input(&self) -> bool {
        match self {
            Self::Propagation { .. } | Self::Unbindable | Self::NoSource { .. } | Self::NoMapping { .. } => true,
            Self::Source { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// The prepared mounts of a container.
pub(crate) struct Stage {
    mounts: Vec<Mount>,
    /// Whether libcontainer has to share all mounts.
    shared: bool,
    late: Vec<Late>,
    /// The mount namespace of the daemon, in which hooks run.
    outside: String,
}

/// A mount that has been made and is not attached to a path yet.
struct Made {
    /// Its index in the list of the spec's mounts.
    index: usize,
    tree: OwnedFd,
    /// Mounts to be attached inside it.
    hierarchies: Hierarchies,
}

impl Stage {
    /// Moves this process into a new mount namespace, and makes the mounts of the spec there that libcontainer would make wrong. Returns
    /// `None` if there are none. Forks, so this process must have one thread.
    ///
    /// # Errors
    /// [`StageError`] names source and destination.
    pub(crate) fn enter(spec: &Spec, bundle: &Path, claim: &Claim) -> Result<Option<Self>, StageError> {
        let mounts = spec.mounts().clone().unwrap_or_default();
        let propagation = propagation_of(spec)?;
        let (path, legacy) = claim.for_libcontainer();
        let is_ours = |mount: &Mount| is_bind(mount) || legacy && mount.typ().as_deref() == Some(CGROUP);
        let needed = propagation.is_some() || mounts.iter().any(|mount| is_ours(mount) || spreads(mount));
        if !needed || !has_own_mounts(spec) {
            return Ok(None);
        }
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| StageError::Namespace(error.into()))?;
        spread_all(propagation.unwrap_or(Propagation::DEFAULT)).map_err(StageError::Namespace)?;
        let users = Users::of(spec);
        let mut made = Vec::new();
        for (index, mount) in mounts.iter().enumerate().filter(|(_, mount)| is_ours(mount)) {
            let (tree, hierarchies) = if is_bind(mount) {
                (bind::make(mount, bundle, &users)?, Hierarchies::new())
            } else {
                groups::make(mount, path, spec::root_on_node(spec))
                    .map_err(|source| StageError::Cgroups { destination: mount.destination().clone(), source })?
            };
            made.push(Made { index, tree, hierarchies });
        }
        // Mounts made from now on must not propagate to the node.
        spread_all(Propagation::DEFAULT).map_err(StageError::Namespace)?;
        let outside = format!("/proc/{}/ns/mnt", nix::unistd::getppid());
        let mut stage = Self { mounts, shared: false, late: Vec::new(), outside };
        let folder = bundle.join(FOLDER);
        stage.place(made, &folder).map_err(|source| StageError::Folder { path: folder, source })?;
        Ok(Some(stage))
    }

    /// Attaches the mounts where libcontainer can find them, and records the corrections that the container will need.
    fn place(&mut self, made: Vec<Made>, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
        let mut places = Vec::new();
        for Made { index, tree, hierarchies } in made {
            let path = folder.join(index.to_string());
            if FileType::from_raw_mode(fstat(&tree)?.st_mode) == FileType::Directory {
                fs::create_dir(&path)?;
            } else {
                fs::File::create(&path)?;
            }
            move_mount(&tree, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            groups::fill(&tree, hierarchies)?;
            let destination = self.mounts[index].destination().clone();
            places.push((path, destination, index));
        }
        (self.shared, self.late) = late::plan(&fs::read("/proc/self/mountinfo")?, &self.mounts, &places);
        for (path, destination, index) in places {
            let copied = MountBuilder::default().destination(destination).typ("bind").source(path);
            self.mounts[index] = copied.options(["rbind".to_owned()]).build().map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Writes the prepared mounts into libcontainer's spec.
    pub(crate) fn adapt(&self, spec: &mut Spec) {
        spec.set_mounts(Some(self.mounts.clone()));
        if let Some(linux) = spec.linux_mut() {
            linux.set_rootfs_propagation(self.shared.then(|| "shared".to_owned()));
        }
    }

    /// Returns the path of the mount namespace in which the node's hooks run.
    pub(crate) fn outside(&self) -> &str {
        &self.outside
    }

    /// Makes the remaining corrections in the container that has been built. `init` is the pid of its first process.
    ///
    /// # Errors
    /// [`StageError::Finish`].
    pub(crate) fn finish(&self, init: i32) -> Result<(), StageError> {
        if self.late.is_empty() {
            return Ok(());
        }
        late::apply(&self.late, init).map_err(StageError::Finish)
    }
}

/// Removes the folder from a bundle. A bundle without it is no error.
///
/// # Errors
/// The folder cannot be removed.
pub(super) fn remove_folder(bundle: &Path) -> io::Result<()> {
    match fs::remove_dir(bundle.join(FOLDER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads the propagation of the container's mounts.
fn propagation_of(spec: &Spec) -> Result<Option<Propagation>, StageError> {
    let value = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    match Propagation::parse(value) {
        Some(propagation) if propagation.is_unbindable() && propagation.recursive => Err(StageError::Unbindable),
        Some(propagation) => Ok(Some(propagation)),
        None => Err(StageError::Propagation { value: value.to_owned() }),
    }
}

/// Returns whether the options of a mount name a propagation.
fn spreads(mount: &Mount) -> bool {
    mount.options().iter().flatten().any(|option| Propagation::parse(option).is_some())
}

/// Returns whether the container gets a new mount namespace.
pub(super) fn has_own_mounts(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Mount && namespace.path().is_none())
}

/// Changes the propagation of all mounts in this process's namespace, beginning with the root.
fn spread_all(propagation: Propagation) -> io::Result<()> {
    let change = propagation.change();
    let root =
        rustix::fs::open("/", rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    change.apply(root, propagation.recursive)
}

/// Parses the options of a mount.
fn options_of(mount: &Mount) -> MountOptions {
    MountOptions::parse(mount.options().as_deref().unwrap_or_default())
}
