//! Mounts that show a folder or file of the node.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Mount, Spec};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::options::MountOptions;
use super::{StageError, options_of};
use crate::node::mounts::map_ids;
use crate::node::mounts::users::{self, IdMap};

/// The user namespace that a container will have.
#[derive(Default)]
pub(super) struct Users {
    /// Whether it differs from the node's.
    own: bool,
    /// Its path, if it exists already.
    path: Option<PathBuf>,
    uids: Vec<LinuxIdMapping>,
    gids: Vec<LinuxIdMapping>,
}

impl Users {
    /// Reads the user namespace from a spec.
    pub(super) fn of(spec: &Spec) -> Self {
        let Some(linux) = spec.linux() else { return Self::default() };
        let namespaces = linux.namespaces().as_deref().unwrap_or_default();
        let own = namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::User);
        Self {
            own: own.is_some(),
            path: own.and_then(|own| own.path().clone()),
            uids: linux.uid_mappings().clone().unwrap_or_default(),
            gids: linux.gid_mappings().clone().unwrap_or_default(),
        }
    }

    /// Opens the namespace, or one with the same mapping; `None` if it is the node's.
    fn open(&self) -> io::Result<Option<File>> {
        match &self.path {
            _ if !self.own => Ok(None),
            Some(path) => File::open(path).map(Some),
            None => users::namespace(&IdMap::of_spec(&self.uids), &IdMap::of_spec(&self.gids)).map(Some),
        }
    }
}

/// Makes the mount that a spec describes, without attaching it.
///
/// # Errors
/// [`StageError`] names source and destination.
pub(super) fn make(mount: &Mount, bundle: &Path, users: &Users) -> Result<OwnedFd, StageError> {
    let destination = mount.destination().clone();
    let source = mount.source().as_ref().filter(|source| !source.as_os_str().is_empty());
    let source = source.ok_or_else(|| StageError::NoSource { destination: destination.clone() })?;
    let path = bundle.join(source);
    let options = options_of(mount);
    // The root user of another user namespace cannot clear attributes that the node has set.
    let options = if users.own { options } else { options.replaces() };
    let tree = clone(&path, options.with_mounts).map_err(|source| StageError::Source {
        path: path.clone(),
        destination: destination.clone(),
        source,
    })?;
    if let Some(namespace) = mapping(mount, &options, users, &path)? {
        map_ids(&tree, namespace, options.all_mapped).map_err(|source| StageError::Mapping {
            path: path.clone(),
            destination: destination.clone(),
            source,
        })?;
    }
    change(&tree, &options).map_err(|source| StageError::Options {
        path,
        destination,
        options: mount.options().clone().unwrap_or_default().join(","),
        source,
    })?;
    Ok(tree)
}

/// Changes a mount according to its options. An unbindable mount could not be copied by libcontainer, so that change is made at the end.
pub(super) fn change(tree: &OwnedFd, options: &MountOptions) -> io::Result<()> {
    options.own.apply(tree, false)?;
    options.all.apply(tree, true)?;
    let now = options.propagation.iter().filter(|propagation| !propagation.is_unbindable());
    now.copied().try_for_each(|propagation| propagation.change().apply(tree, propagation.recursive))
}

/// Copies a mount, or the part below a folder or file in it.
pub(super) fn clone(path: &Path, with_mounts: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, with_mounts);
    Ok(open_tree(CWD, path, flags)?)
}

/// Returns the user namespace with the id mapping of a mount: by the mount's own mappings, else by the container's.
fn mapping(mount: &Mount, options: &MountOptions, users: &Users, path: &Path) -> Result<Option<File>, StageError> {
    let (path, destination) = (|| path.to_owned(), || mount.destination().clone());
    let refused = |reason| StageError::NoMapping { path: path(), destination: destination(), reason };
    let list = |maps: &Option<Vec<LinuxIdMapping>>| maps.clone().filter(|maps| !maps.is_empty());
    let namespace = match (list(mount.uid_mappings()), list(mount.gid_mappings())) {
        (None, None) if !options.mapped => return Ok(None),
        (None, None) => users.open(),
        (Some(uids), Some(gids)) => users::namespace(&IdMap::of_spec(&uids), &IdMap::of_spec(&gids)).map(Some),
        _ => return Err(refused("the mount needs both uidMappings and gidMappings, or neither")),
    };
    let namespace =
        namespace.map_err(|source| StageError::Mapping { path: path(), destination: destination(), source })?;
    match namespace {
        Some(namespace) => Ok(Some(namespace)),
        None => Err(refused("neither the mount nor the container has uidMappings and gidMappings")),
    }
}
