//! Takes away all that is left of a container. Each step works whether or not the ones before did, and whether or not
//! there is anything left for it to do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libcontainer::container::Container;

use super::data;
use crate::cgroup::Cgroup;
use crate::error::{Failure, Kind};
use crate::mounts::{self, MountError};
use crate::process::ProcessId;
use crate::spec;

/// How long killed processes may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Take away all that is left of a container.
#[derive(Debug)]
pub(crate) struct Remove {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    /// libcontainer's folder of the container.
    pub(crate) state: PathBuf,
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
    #[error(transparent)]
    Mount(#[from] MountError),
}

impl Remove {
    /// Ends the processes, removes cgroups and state, unmounts. The first failure is told; the rest is done all the same.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let cgroup = self.cgroup.clone().or_else(|| self.expected_cgroup()).unwrap_or_default();
        let steps = [
            self.end_processes(&cgroup),
            remove_cgroup(&cgroup),
            self.remove_container(),
            mounts::unmount_all(&self.bundle.join("rootfs")).map_err(RemoveError::from),
            data::remove_copies(&self.bundle)
                .map_err(|source| RemoveError::State { path: self.bundle.clone(), source }),
        ];
        steps.into_iter().collect::<Result<(), RemoveError>>().map_err(|error| Failure::new(Kind::Internal, &error))
    }

    /// Finds the cgroups of a container whose init process was never seen.
    fn expected_cgroup(&self) -> Option<Cgroup> {
        let spec = spec::load(&self.bundle).ok()?;
        Cgroup::of_path(&spec::cgroup_path(&spec, &self.id)).ok()
    }

    /// Kills what a helper has started first: once that is dead, nothing new can get into the cgroups from outside.
    fn end_processes(&self, cgroup: &Cgroup) -> Result<(), RemoveError> {
        if let Some(helper) = self.helper {
            helper.kill_group();
            // What is killed still ends the call that it is in, which may make a cgroup.
            let start = Instant::now();
            while helper.group_is_running() && start.elapsed() < KILL_LIMIT {
                std::thread::sleep(PAUSE);
            }
        }
        if let Some(init) = self.init {
            init.kill();
        }
        if !cgroup.kill_all(KILL_LIMIT) {
            return Err(RemoveError::Processes(cgroup.pids()));
        }
        let start = Instant::now();
        while let Some(init) = self.init.filter(|init| init.is_running()) {
            if start.elapsed() > KILL_LIMIT {
                return Err(RemoveError::Processes(vec![init.pid]));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Has libcontainer remove the container, which runs the hooks for that too.
    fn remove_container(&self) -> Result<(), RemoveError> {
        if !self.state.exists() {
            return Ok(());
        }
        if let Err(error) = Container::load(self.state.clone()).and_then(|mut container| container.delete(true)) {
            // A state that was never finished cannot be read, and a hook that fails is no reason to keep the container.
            tracing::warn!(%error, "libcontainer cannot remove the container");
        }
        remove_folder(&self.state)
    }
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

fn remove_folder(path: &Path) -> Result<(), RemoveError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RemoveError::State { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
