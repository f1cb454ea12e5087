//! Creates a container: mounts its root filesystem, prepares its program, builds it.
//!
//! Nothing is undone here: whatever a failed or killed creation leaves is taken away by a [`super::Remove`] job, which
//! the daemon starts in either case.

use std::io;
use std::path::PathBuf;

use super::build::{BuildError, build_error, builder};
use super::payload::Search;
use crate::cgroup::Cgroup;
use crate::command::EngineConstructor;
use crate::error::Failure;
use crate::helper::Report;
use crate::mounts::{self, Mount};
use crate::options::RuntimeOptions;
use crate::process::ProcessId;
use crate::record;
use crate::spec;
use crate::stdio::Streams;

/// Mount the root filesystem, prepare the program, build the container around it.
#[derive(Debug)]
pub(crate) struct Create {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    /// libcontainer's folder for containers.
    pub(crate) containers: PathBuf,
    pub(crate) rootfs: Vec<Mount>,
    pub(crate) streams: Streams,
    /// containerd's gRPC socket.
    pub(crate) address: PathBuf,
    pub(crate) namespace: String,
    pub(crate) options: RuntimeOptions,
}

impl Create {
    /// Creates the container and reports its init process.
    pub(super) fn run(&self, engine: EngineConstructor) -> Result<Report, Failure> {
        self.create(engine).map_err(Failure::from)
    }

    fn create(&self, engine: EngineConstructor) -> Result<Report, BuildError> {
        let spec = spec::load(&self.bundle)?;
        let options = self.options.of_container(&spec)?;
        if let Err(error) = record::note_helper(&self.bundle) {
            // Only a help, like the daemon's own record.
            tracing::warn!(%error, id = self.id, "cannot note who creates the container");
        }
        mounts::mount_all(&self.rootfs, &self.bundle.join("rootfs"))?;
        let search = Search {
            id: &self.id,
            address: &self.address,
            namespace: &self.namespace,
            root: spec::root(&spec, &self.bundle),
            own: None,
        };
        let payload = search.payload(&spec, &options, engine)?;
        let container = builder(&self.id, &self.containers, &self.streams, &spec, payload, None)?
            .as_init(&self.bundle)
            .with_systemd(spec::has_systemd_cgroup(&spec))
            .as_sibling(true)
            .build()
            .map_err(|error| build_error("container", &error))?;
        let pid = container.pid().map(|pid| pid.as_raw());
        let pid = pid.ok_or_else(|| BuildError::Init(io::Error::other("libcontainer did not name it")))?;
        let id = ProcessId::of(pid).map_err(BuildError::Init)?;
        let cgroup = Cgroup::of_process(pid).map_err(BuildError::Init)?;
        Ok(Report::Process { id, cgroup: Some(cgroup) })
    }
}
