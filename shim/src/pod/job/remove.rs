//! Takes away all that is left of a container. Each step works whether or not the ones before did, and whether or not
//! there is anything left for it to do.

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

/// How long killed processes may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Take away all that is left of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remove {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    /// The container's folder in the runtime folder.
    pub(crate) folder: PathBuf,
    /// The helper that was building it, if it did not come to an end.
    pub(crate) helper: Option<ProcessId>,
    /// The init process, if there was one.
    pub(crate) init: Option<ProcessId>,
    /// Its cgroups, if they are known.
    pub(crate) cgroup: Option<Cgroup>,
}

/// Says what could not be taken away.
#[derive(Debug, thiserror::Error)]
enum RemoveError {
    #[error("cannot end the processes of the container: {0:?} are left")]
    Processes(Vec<i32>),
    #[error("cannot remove {}", path.display())]
    State {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot remove the cgroups of the container")]
    Cgroup,
    #[error("cannot have systemd take away the container's scope")]
    Scope(#[from] SystemdError),
    #[error(transparent)]
    Mount(#[from] MountError),
}

impl Remove {
    /// Ends the processes, removes cgroups and state, unmounts. The first failure is told; the rest is done all the same.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let claimed = Claimed::load(&self.folder);
        let noted = claimed.as_ref();
        // Without either nothing was made: no process is the container's by the path of its spec alone.
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

    /// Kills its processes, as far as they are known, and does not wait for their end.
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

    /// Runs the hooks for the time after the end, and removes what libcontainer has left.
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

    /// A hook that fails is no reason to keep the container.
    fn run_hooks(&self, container: &Container) {
        let Ok(spec) = spec::load(&self.bundle) else { return };
        let Some(hooks) = spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_ref()) else { return };
        if let Err(error) = run_hooks(Some(hooks), Some(&container.state), None, None, None) {
            tracing::warn!(error = chain(&error), "a hook for the time after the end has failed");
        }
    }
}

/// Kills what a helper has started first: once that is dead, nothing new can get into the cgroups from outside.
fn end_processes(helper: Option<ProcessId>, init: Option<ProcessId>, cgroup: &Cgroup) -> Result<(), RemoveError> {
    if let Some(helper) = helper {
        helper.kill_group();
        // What is killed still ends the call that it is in, which may make a cgroup.
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
        // Somebody may have got in on the way to its end.
        cgroup.kill_all(PAUSE);
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
