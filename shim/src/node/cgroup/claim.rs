//! Makes the cgroups of a container, for that container alone.
//!
//! All processes in a container's cgroup are killed with the container. So a cgroup with a process in it or below it is refused, as in
//! runc since 1.2. A lock on the folder separates two containers that name one cgroup at the same time. Limits and the filter of devices
//! are in force before a process is in the cgroup.
//!
//! With cgroup v1 libcontainer makes the folders and writes the limits; this module only checks them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{LinuxResources, Spec};
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, fork, getppid};
use rustix::fs::{FlockOperation, flock};

use super::devices::{DeviceError, DeviceRules};
use super::limits::{self, LimitError};
use super::place::{Place, PlaceError};
use super::properties::{self, PropertyError};
use super::systemd::{Property, Systemd, SystemdError, Value};
use super::{Cgroup, bpf, child_folders, collect_pids, folders_at, is_legacy};

/// The reason why a container cannot have its cgroups.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("cannot use cgroup {}: it is not empty, {count} processes are in it", path.display())]
    NotEmpty { path: PathBuf, count: usize },
    #[error("cannot use cgroup {}: another container is being made in it", path.display())]
    Taken { path: PathBuf },
    #[error("cannot make cgroup {}", path.display())]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot apply the device rules of the container")]
    Devices(#[from] DeviceError),
    #[error("cannot apply the device rules of the container: the kernel refuses the filter for {}", path.display())]
    Filter {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Property(#[from] PropertyError),
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    #[error("cannot read the cgroups of this node")]
    Read(#[source] io::Error),
    #[error("cannot put the container into its cgroup of systemd's hierarchy")]
    Join(#[source] io::Error),
    #[error("cannot record the cgroups of the container")]
    Note(#[source] io::Error),
    #[error("cannot put the container into cgroup {}: it is in {found}", path.display())]
    Elsewhere { path: PathBuf, found: String },
}

impl ClaimError {
    /// Returns whether the container's description is at fault rather than the node.
    pub(crate) fn is_input(&self) -> bool {
        match self {
            Self::Place(_) | Self::Devices(_) | Self::Property(_) => true,
            Self::Limit(error) => error.is_input(),
            _ => false,
        }
    }
}

/// The progress of making a container's cgroups.
pub(crate) enum Progress<'a> {
    /// This folder will be made, unless another process makes it first.
    Making(&'a Path),
    /// The cgroups exist and belong to the container.
    Made(&'a Cgroup),
}

/// Removes a folder whose maker was killed before it could claim it. The folder stays if another container has claimed it, or if it holds
/// a process or a cgroup.
///
/// # Errors
/// The system's error.
pub(crate) fn remove_unclaimed(folder: &Path) -> io::Result<()> {
    let lock = match lock(folder) {
        Ok(lock) => lock,
        Err(ClaimError::Taken { .. }) => return Ok(()),
        Err(ClaimError::Make { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io::Error::other(error)),
    };
    let removed = fs::remove_dir(folder);
    drop(lock);
    match removed {
        // The folder holds a process or another folder.
        Err(error) if [io::ErrorKind::ResourceBusy, io::ErrorKind::DirectoryNotEmpty].contains(&error.kind()) => Ok(()),
        other => other,
    }
}

/// The cgroups of a container in creation.
pub(crate) struct Claim {
    cgroup: Cgroup,
    /// The folder for libcontainer, as a path below the hierarchy's root.
    path: PathBuf,
    legacy: bool,
    /// Keeps systemd's scope alive until the container is in it.
    holder: Option<Holder>,
    /// Locks the folder until the container is in it.
    _lock: Option<File>,
}

impl Claim {
    /// Makes the cgroups of a container, with the limits and devices of its spec in force. `note` is called before a folder is made, and
    /// again as soon as the cgroups belong to the container. If this process is killed, another one must find them.
    ///
    /// # Errors
    /// [`ClaimError`]; the caller removes the recorded cgroups.
    pub(crate) fn make(
        spec: &Spec,
        id: &str,
        mut note: impl FnMut(Progress<'_>) -> io::Result<()>,
    ) -> Result<Self, ClaimError> {
        let none = LinuxResources::default();
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()).unwrap_or(&none);
        let rules = DeviceRules::new(resources.devices().as_deref().unwrap_or_default())?;
        let mut claim = Self::find(spec, id)?;
        let Some((_, folder)) = claim.cgroup.folders.first().cloned() else { return Ok(claim) };
        let settings =
            if claim.legacy { Vec::new() } else { limits::first(&folder, resources, claim.cgroup.unit.is_some())? };
        match claim.cgroup.unit.clone() {
            Some(unit) => claim.make_scope(&unit, id, properties::of_settings(&settings)?, &rules)?,
            None => {
                if !folder.exists() {
                    note(Progress::Making(&folder)).map_err(ClaimError::Note)?;
                }
                claim.lock_folder(&folder)?;
            }
        }
        note(Progress::Made(&claim.cgroup)).map_err(ClaimError::Note)?;
        if !claim.legacy {
            limits::write(settings, &claim.cgroup)?;
            attach_filter(&folder, &rules)?;
        }
        Ok(claim)
    }

    /// Finds the place for the cgroups and checks that they are empty.
    fn find(spec: &Spec, id: &str) -> Result<Self, ClaimError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(ClaimError::Read)?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(ClaimError::Read)?;
        let legacy = is_legacy(&mounts);
        let wanted = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        let place = Place::new(wanted, id, &own_cgroup(&own, legacy), legacy)?;
        let folders = folders_at(place.path(), &mounts);
        let mut kept = Vec::new();
        for (_, folder) in &folders {
            check_empty(folder)?;
            collect_folders(folder, &mut kept);
        }
        let path = place.path().to_owned();
        let unit = match place {
            Place::Scope { unit, .. } => Some(unit),
            Place::Folder(_) => None,
        };
        Ok(Self { cgroup: Cgroup { folders, unit, kept }, path, legacy, holder: None, _lock: None })
    }

    /// Makes the folder, unless it exists and is empty, and locks it.
    fn lock_folder(&mut self, folder: &Path) -> Result<(), ClaimError> {
        let made = make_folder(folder, !self.legacy)?;
        let locked = lock(folder).and_then(|lock| {
            // A process may have entered since the first check.
            self.cgroup.folders.iter().try_for_each(|(_, folder)| check_empty(folder))?;
            Ok(lock)
        });
        self._lock = Some(locked.inspect_err(|_| {
            // The kernel refuses to remove a folder in use.
            let _ = made.then(|| fs::remove_dir(folder));
        })?);
        Ok(())
    }

    fn make_scope(
        &mut self,
        unit: &str,
        id: &str,
        limits: Vec<Property>,
        rules: &DeviceRules,
    ) -> Result<(), ClaimError> {
        let slice =
            self.path.parent().and_then(Path::file_name).map_or("-.slice".into(), |name| name.to_string_lossy());
        let holder = Holder::new().map_err(ClaimError::Read)?;
        let process = holder.0.as_raw().cast_unsigned();
        let flag = |name| Property::new(name, Value::Flag(true));
        let mut properties = vec![
            Property::new("Description", Value::Text(format!("prewasi container {id}"))),
            Property::new("Slice", Value::Text(slice.into_owned())),
            Property::new("PIDs", Value::Processes(vec![process])),
            Property::new("DefaultDependencies", Value::Flag(false)),
            flag("Delegate"),
            flag("MemoryAccounting"),
            flag("CPUAccounting"),
            flag("IOAccounting"),
            flag("TasksAccounting"),
        ];
        properties.extend(properties::of_devices(rules));
        properties.extend(limits);
        Systemd::connect()?.start_scope(unit, process, &properties)?;
        self.holder = Some(holder);
        if let Some((_, folder)) = self.cgroup.folders.first() {
            enable_controllers_above(folder);
        }
        Ok(())
    }

    /// Returns the cgroup path for libcontainer's spec, and whether libcontainer still has to write the limits.
    pub(crate) fn for_libcontainer(&self) -> (&Path, bool) {
        (&self.path, self.legacy)
    }

    /// Moves this process into the cgroup that libcontainer omits: see [`Cgroup::join_named`].
    ///
    /// # Errors
    /// [`ClaimError::Join`].
    pub(crate) fn join(&self) -> Result<(), ClaimError> {
        if self.legacy { self.cgroup.join_named().map_err(ClaimError::Join) } else { Ok(()) }
    }

    /// Makes folders again that existed before the container: libcontainer removes all folders when it fails.
    pub(crate) fn restore(&self) {
        for folder in self.cgroup.kept.iter().filter(|folder| !folder.exists()) {
            if let Err(error) = fs::create_dir_all(folder) {
                tracing::warn!(%error, folder = %folder.display(), "cannot make a cgroup again that was there before");
            }
        }
    }

    /// Completes the claim when the container is in its cgroups, and returns them.
    ///
    /// # Errors
    /// [`ClaimError::Elsewhere`] if the container is in another cgroup.
    pub(crate) fn taken_by(self, pid: i32) -> Result<Cgroup, ClaimError> {
        let mut found = self.cgroup.clone().at_process(pid).map_err(ClaimError::Read)?;
        // This process is in that cgroup as well, so the lookup has left it out.
        found.folders.extend(self.cgroup.named().filter(|_| self.legacy).cloned());
        if !self.legacy && found.folders != self.cgroup.folders {
            let path = self.cgroup.folders.into_iter().map(|(_, folder)| folder).next().unwrap_or_default();
            let found =
                found.folders.first().map_or("the shim's".to_owned(), |(_, folder)| folder.display().to_string());
            return Err(ClaimError::Elsewhere { path, found });
        }
        Ok(found)
    }
}

/// Changes limits of a container to those of `wanted`, in its cgroups and in systemd; `own` are the limits that it was made with.
///
/// # Errors
/// [`ClaimError`]. Settings before the failed one are in force.
pub(crate) fn change(cgroup: &Cgroup, wanted: &LinuxResources, own: Option<&LinuxResources>) -> Result<(), ClaimError> {
    let settings = limits::changes(cgroup, wanted, own)?;
    if let Some(unit) = cgroup.unit() {
        let properties = properties::of_settings(&settings)?;
        // systemd cannot change the policy of an existing scope.
        let properties: Vec<_> = properties.into_iter().filter(|property| property.name != "OOMPolicy").collect();
        if !properties.is_empty() {
            Systemd::connect()?.set(unit, &properties)?;
        }
    }
    Ok(limits::write(settings, cgroup)?)
}

/// An idle process in a scope that would otherwise be empty.
struct Holder(Pid);

impl Holder {
    fn new() -> io::Result<Self> {
        let parent = nix::unistd::getpid();
        // SAFETY: the child makes only calls that are safe after a fork, and never returns.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self(child)),
            ForkResult::Child => {
                // It must not outlive its maker; if this call fails, the end of the container kills it.
                let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
                while getppid() == parent {
                    nix::unistd::pause();
                }
                // SAFETY: _exit runs no destructors: the values here belong to the parent.
                unsafe { nix::libc::_exit(0) }
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It is this process's child, and has not been reaped.
        let _ = nix::sys::signal::kill(self.0, Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.0, None);
    }
}

/// Returns the cgroup of a process from its `/proc/PID/cgroup`: that of the devices controller, or the only one.
fn own_cgroup(text: &str, legacy: bool) -> PathBuf {
    let of = |line: &&str| {
        let controllers = line.split(':').nth(1).unwrap_or_default();
        if legacy { controllers.split(',').any(|name| name == "devices") } else { controllers.is_empty() }
    };
    text.lines().find(of).and_then(|line| line.splitn(3, ':').nth(2)).map_or_else(|| "/".into(), PathBuf::from)
}

fn check_empty(folder: &Path) -> Result<(), ClaimError> {
    let mut pids = Vec::new();
    collect_pids(folder, &mut pids);
    if pids.is_empty() { Ok(()) } else { Err(ClaimError::NotEmpty { path: folder.to_owned(), count: pids.len() }) }
}

fn collect_folders(folder: &Path, folders: &mut Vec<PathBuf>) {
    if folder.exists() {
        folders.push(folder.to_owned());
        child_folders(folder).iter().for_each(|child| collect_folders(child, folders));
    }
}

fn lock(folder: &Path) -> Result<File, ClaimError> {
    let failed = |source| ClaimError::Make { path: folder.to_owned(), source };
    let file = File::open(folder).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ClaimError::Taken { path: folder.to_owned() }),
        other => other.map_err(|error| failed(error.into())).map(|()| file),
    }
}

fn attach_filter(folder: &Path, rules: &DeviceRules) -> Result<(), ClaimError> {
    match bpf::attach_device_filter(folder, &rules.program()) {
        // In a user namespace no process can make or open the node's devices.
        Err(error) if is_in_user_namespace() => {
            tracing::debug!(%error, "no filter of devices: this node is in a user namespace");
            Ok(())
        }
        other => other.map_err(|source| ClaimError::Filter { path: folder.to_owned(), source }),
    }
}

/// Makes a folder with its parents; returns whether it was missing. With cgroup v2 it enables all controllers for it, as far as the
/// kernel permits.
fn make_folder(folder: &Path, unified: bool) -> Result<bool, ClaimError> {
    let made = fs::create_dir_all(folder.parent().unwrap_or(folder)).and_then(|()| {
        if unified {
            enable_controllers_above(folder);
        }
        match fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            other => other.map(|()| true),
        }
    });
    made.map_err(|source| ClaimError::Make { path: folder.to_owned(), source })
}

fn enable_controllers_above(folder: &Path) {
    let mut above: Vec<&Path> =
        folder.ancestors().skip(1).take_while(|path| path.join("cgroup.subtree_control").exists()).collect();
    above.reverse();
    let Some(root) = above.first() else { return };
    let known = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    for path in above {
        let on = fs::read_to_string(path.join("cgroup.subtree_control")).unwrap_or_default();
        let missing = known.split_whitespace().filter(|name| !on.split_whitespace().any(|on| on == *name));
        for name in missing {
            // A missing controller causes an error later, if a limit needs it.
            let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{name}"));
        }
    }
}

fn is_in_user_namespace() -> bool {
    // The initial user namespace maps every id to itself.
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests;
