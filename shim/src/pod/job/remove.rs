//! Removes the remains of a container. Each step works whether or not the previous ones succeeded, and whether or not it finds anything
//! to remove.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libcontainer::container::{Container, ContainerStatus};
use libcontainer::hooks::run_hooks;
use prewasi_precompiler::chain;
use serde::{Deserialize, Serialize};

use super::{data, stage};
use crate::failure::{Failure, Kind};
use crate::node::cgroup::{self, Cgroup, SystemdError};
use crate::node::mounts::{self, MountError};
use crate::node::pid::ProcessId;
use crate::pod::record::Claimed;
use crate::pod::spec;

/// Time limit for killed processes to end.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two polls.
const PAUSE: Duration = Duration::from_millis(2);

/// A job: remove the remains of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remove {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    /// The container's folder in the runtime folder.
    pub(crate) folder: PathBuf,
    /// The helper that was building the container, if it did not finish.
    pub(crate) helper: Option<ProcessId>,
    /// The init process, if one was made.
    pub(crate) init: Option<ProcessId>,
    /// The container's cgroups, if they are known.
    pub(crate) cgroup: Option<Cgroup>,
}

/// A part that could not be removed.
#[derive(Debug, thiserror::Error)]
enum RemoveError {
    #[error("cannot end the processes of the container: processes {0:?} still run")]
    Processes(Vec<i32>),
    #[error("cannot remove {}", path.display())]
    State {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot remove the cgroups of the container")]
    Cgroup,
    #[error("cannot remove the container's scope through systemd")]
    Scope(#[from] SystemdError),
    #[error(transparent)]
    Mount(#[from] MountError),
}

impl Remove {
    /// Ends the processes, removes cgroups and state, unmounts. Reports the first failure; the other steps are done all the same.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let claimed = Claimed::load(&self.folder);
        let noted = claimed.as_ref();
        // Without a claim or a known cgroup nothing was made. A process in the cgroup of the spec's path need not be the container's.
        let cgroup = self.cgroup.clone().or_else(|| noted?.cgroup.clone()).unwrap_or_default();
        let helper = self.helper.or_else(|| Some(noted?.helper));
        let init = self.init.or_else(|| noted?.init);
        let steps = [
            end_processes(helper, init, &cgroup),
            cgroup.stop_unit().map_err(RemoveError::from),
            remove_cgroup(&cgroup),
            noted.and_then(|noted| noted.making.as_deref()).map_or(Ok(()), remove_unclaimed),
            self.remove_container(),
            mounts::unmount_all(&self.bundle.join("rootfs")).map_err(RemoveError::from),
            data::remove_copies(&self.bundle)
                .and_then(|()| stage::remove_folder(&self.bundle))
                .map_err(|source| RemoveError::State { path: self.bundle.clone(), source }),
        ];
        steps.into_iter().collect::<Result<(), RemoveError>>().map_err(|error| Failure::new(Kind::Internal, &error))
    }

    /// Kills the known processes of the container, without waiting for their end.
    pub(crate) fn kill(&self) {
        let claimed = Claimed::load(&self.folder);
        let noted = claimed.as_ref();
        if let Some(helper) = self.helper.or_else(|| Some(noted?.helper)) {
            helper.kill_group();
        }
        if let Some(init) = self.init.or_else(|| noted?.init) {
            init.kill();
        }
        if let Some(cgroup) = self.cgroup.as_ref().or_else(|| noted?.cgroup.as_ref()) {
            cgroup.kill_all(Duration::ZERO);
        }
    }

    /// Runs the `poststop` hooks, and removes libcontainer's remains.
    fn remove_container(&self) -> Result<(), RemoveError> {
        let state = self.folder.join(&self.id);
        // The library logs it as an error that there is none, as after each container that was removed by its daemon.
        if state.join("state.json").exists()
            && let Ok(mut container) = Container::load(state)
        {
            container.state.bundle.clone_from(&self.bundle);
            container.state.status = ContainerStatus::Stopped;
            for folder in [container.intel_rdt_dir(), container.intel_rdt_monitoring_dir()].into_iter().flatten() {
                if let Err(error) = fs::remove_dir(folder) {
                    tracing::warn!(%error, folder = %folder.display(), "cannot remove a folder of resctrl");
                }
            }
            self.run_hooks(&container);
        }
        match fs::remove_dir_all(&self.folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RemoveError::State { path: self.folder.clone(), source })
            }
            _ => Ok(()),
        }
    }

    /// Runs the hooks. A failed hook does not stop the removal.
    fn run_hooks(&self, container: &Container) {
        let Ok(spec) = spec::load(&self.bundle) else { return };
        let Some(hooks) = spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_ref()) else { return };
        if let Err(error) = run_hooks(Some(hooks), Some(&container.state), None, None, None) {
            tracing::warn!(error = chain(&error), "a poststop hook failed");
        }
    }
}

/// Kills the helper first: once it is dead, no new process can enter the cgroups from outside.
fn end_processes(helper: Option<ProcessId>, init: Option<ProcessId>, cgroup: &Cgroup) -> Result<(), RemoveError> {
    if let Some(helper) = helper {
        helper.kill_group();
        // A killed process still completes its current system call, which may make a cgroup.
        let start = Instant::now();
        while helper.group_is_running() && start.elapsed() < KILL_LIMIT {
            std::thread::sleep(PAUSE);
        }
    }
    if let Some(init) = init {
        init.kill();
    }
    if !cgroup.kill_all(KILL_LIMIT) {
        return Err(RemoveError::Processes(cgroup.pids()));
    }
    let start = Instant::now();
    while let Some(init) = init.filter(|init| init.is_running()) {
        if start.elapsed() > KILL_LIMIT {
            return Err(RemoveError::Processes(vec![init.pid]));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn remove_unclaimed(folder: &Path) -> Result<(), RemoveError> {
    cgroup::remove_unclaimed(folder).map_err(|source| RemoveError::State { path: folder.to_owned(), source })
}

fn remove_cgroup(cgroup: &Cgroup) -> Result<(), RemoveError> {
    let start = Instant::now();
    while !cgroup.remove() {
        if start.elapsed() > KILL_LIMIT {
            return Err(RemoveError::Cgroup);
        }
        // Another process may have entered while these were ending.
        cgroup.kill_all(PAUSE);
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
