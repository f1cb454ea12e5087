//! Takes away all that is left of a container. Each step works whether or not the ones before did, and whether or not
//! there is anything left for it to do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libcontainer::container::Container;

use crate::cgroup::Cgroup;
use crate::error::{Failure, Kind};
use crate::mounts::{self, MountError};
use crate::process::ProcessId;

/// How long killed processes may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Take away all that is left of a container.
#[derive(Debug)]
pub(crate) struct Remove {
    /// libcontainer's folder of the container.
    pub(crate) state: PathBuf,
    /// The root filesystem that was mounted.
    pub(crate) rootfs: PathBuf,
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
    #[error("cannot remove the container")]
    Container(#[source] libcontainer::error::LibcontainerError),
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
        let steps = [
            self.end_processes(),
            self.remove_container(),
            self.remove_cgroup(),
            mounts::unmount_all(&self.rootfs).map_err(RemoveError::from),
        ];
        steps.into_iter().collect::<Result<(), RemoveError>>().map_err(|error| Failure::new(Kind::Internal, &error))
    }

    fn end_processes(&self) -> Result<(), RemoveError> {
        if let Some(init) = self.init {
            init.kill();
        }
        if let Some(cgroup) = &self.cgroup
            && !cgroup.kill_all(KILL_LIMIT)
        {
            return Err(RemoveError::Processes(cgroup.pids()));
        }
        let start = Instant::now();
        while let Some(init) = self.init.filter(|init| init.is_running()) {
            if start.elapsed() > KILL_LIMIT {
                return Err(RemoveError::Processes(vec![init.pid]));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Has libcontainer remove the container, which runs the hooks for that too.
    fn remove_container(&self) -> Result<(), RemoveError> {
        if !self.state.exists() {
            return Ok(());
        }
        let removed = Container::load(self.state.clone()).and_then(|mut container| container.delete(true));
        // A state that libcontainer cannot read is of no use to anybody.
        let left = remove_folder(&self.state);
        removed.map_err(RemoveError::Container)?;
        left
    }

    fn remove_cgroup(&self) -> Result<(), RemoveError> {
        let start = Instant::now();
        while self.cgroup.as_ref().is_some_and(|cgroup| !cgroup.remove()) {
            if start.elapsed() > KILL_LIMIT {
                return Err(RemoveError::Cgroup);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

fn remove_folder(path: &Path) -> Result<(), RemoveError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RemoveError::State { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
