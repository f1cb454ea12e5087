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
use crate::log;
use crate::mounts::{self, Mount};
use crate::observe;
use crate::options::RuntimeOptions;
use crate::process::ProcessId;
use crate::record;
use crate::spec;
use crate::stdio::Streams;
use crate::trace::Origin;

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
    pub(crate) origin: Option<Origin>,
}

impl Create {
    /// Creates the container and reports its init process.
    pub(super) fn run(&self, engine: EngineConstructor) -> Result<Report, Failure> {
        self.create(engine).map_err(Failure::from)
    }

    fn create(&self, engine: EngineConstructor) -> Result<Report, BuildError> {
        let spec = spec::load(&self.bundle)?;
        let options = self.options.of_container(&spec)?;
        log::set_level(options.log_level);
        if let Err(error) = record::note_helper(&self.bundle) {
            // Only a help, like the daemon's own record.
            tracing::warn!(%error, "cannot note who creates the container");
        }
        tracing::info_span!("mount").in_scope(|| mounts::mount_all(&self.rootfs, &self.bundle.join("rootfs")))?;
        let search = Search {
            id: &self.id,
            address: &self.address,
            namespace: &self.namespace,
            root: spec::root(&spec, &self.bundle),
            bundle: &self.bundle,
            own: None,
            origin: self.origin.as_ref(),
        };
        let payload = search.payload(&spec, &options, engine)?;
        let building = tracing::info_span!("build").entered();
        let container = builder(&self.id, &self.containers, &self.streams, &spec, payload, None)?
            .as_init(&self.bundle)
            .with_systemd(spec::has_systemd_cgroup(&spec))
            .as_sibling(true)
            .build()
            .map_err(|error| build_error("container", &error))?;
        drop(building);
        let pid = container.pid().map(|pid| pid.as_raw());
        let pid = pid.ok_or_else(|| BuildError::Init(io::Error::other("libcontainer did not name it")))?;
        let id = ProcessId::of(pid).map_err(BuildError::Init)?;
        let cgroup = Cgroup::of_process(pid).map_err(BuildError::Init)?;
        Ok(Report::Process { id, cgroup: Some(cgroup), about: observe::about(&tracing::Span::current()) })
    }
}
