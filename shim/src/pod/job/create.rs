//! Creates a container: mounts its root filesystem, prepares its program, builds it.
//!
//! This job undoes nothing. The daemon starts a [`super::Remove`] job after a failed or killed creation, which removes the remains.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use libcontainer::oci_spec::runtime::Spec;
use prewasi_precompiler::{StoreAddress, chain};
use serde::{Deserialize, Serialize};

use super::Remove;
use super::build::{BuildError, builder, check_cwd};
use super::folders;
use super::mask::Masks;
use super::payload::{Prepared, Search};
use super::reason::{Specs, build_error};
use super::root;
use super::stage::Stage;
use super::view::View;
use crate::engine::EngineConstructor;
use crate::failure::Failure;
use crate::node::cgroup::{Claim, Progress};
use crate::node::mounts::{self, Mount};
use crate::node::pid::ProcessId;
use crate::pod::job::Report;
use crate::pod::launch::Confinement;
use crate::pod::options::RuntimeOptions;
use crate::pod::record::Claimed;
use crate::pod::spec::adapt::Surroundings;
use crate::pod::spec::{self, adapt};
use crate::pod::stdio::Streams;
use crate::telemetry::log;
use crate::telemetry::observe;
use crate::telemetry::reasons;
use crate::telemetry::trace::SpanParent;

/// A container as the client describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NewContainer {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    /// Mounts that make the root filesystem.
    pub(crate) rootfs: Vec<Mount>,
    pub(crate) options: RuntimeOptions,
}

/// A job: mount the root filesystem, prepare the program, build the container around it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Create {
    pub(crate) container: NewContainer,
    /// Name of the pod.
    pub(crate) pod: String,
    /// The container's folder in the runtime folder.
    pub(crate) folder: PathBuf,
    pub(crate) streams: Streams,
    /// The containerd that the container belongs to.
    pub(crate) store: StoreAddress,
    pub(crate) origin: Option<SpanParent>,
}

impl Create {
    /// Creates the container and reports its init process.
    pub(super) fn run(&self, engine: EngineConstructor) -> Result<Report, Failure> {
        self.create(engine).map_err(Failure::from)
    }

    fn create(&self, engine: EngineConstructor) -> Result<Report, BuildError> {
        let mut spec = spec::load(&self.container.bundle)?;
        check_cwd(spec.process().as_ref())?;
        let options = self.container.options.of_container(&spec)?;
        let runc = self.container.options.for_runc()?;
        log::set_level(options.log_level);
        let mut claimed = self.take_folder()?;
        tracing::info_span!("mount")
            .in_scope(|| mounts::mount_all(&self.container.rootfs, &self.container.bundle.join("rootfs")))?;
        let root = spec::root(&spec, &self.container.bundle);
        root::check(&root, &spec)?;
        let modes = folders::modes(&spec, &root);
        if !spec::has_proc(&spec) {
            return Err(BuildError::NoProc);
        }
        // The kernel cannot execute wasm for an init program.
        let without_init = spec::without_init(&spec);
        let own = without_init.as_ref().unwrap_or(&spec);
        let search = Search {
            id: &self.container.id,
            store: &self.store,
            view: View::Planned { root, spec: own, bundle: &self.container.bundle },
            bundle: &self.container.bundle,
            own: None,
            pin: None,
            origin: self.origin.as_ref(),
        };
        let Prepared { payload, pin, is_taken_over } = search.payload(own, &options, engine)?;
        claimed.image = pin;
        if let (Some(own), adapt::Kind::Wasm) = (without_init, payload.kind()) {
            spec = own;
        }
        if let (Some(root), true) = (spec.root_mut(), is_taken_over) {
            root.set_path("rootfs".into());
        }
        self.take_devices(&spec, payload.kind())?;
        root::make_dev(&spec::root(&spec, &self.container.bundle), &spec)?;
        check_hooks(&spec)?;
        let building = tracing::info_span!("build").entered();
        let claim = Claim::make(&spec, &self.container.id, |progress| {
            match progress {
                Progress::Making(folder) => claimed.making = Some(folder.to_owned()),
                Progress::Made(cgroup) => (claimed.making, claimed.cgroup) = (None, Some(cgroup.clone())),
            }
            claimed.save(&self.folder)
        })?;
        claim.join()?;
        let stage = Stage::enter(&spec, &self.container.bundle, &claim)?;
        let with = Surroundings {
            bundle: &self.container.bundle,
            claim: &claim,
            stage: stage.as_ref(),
            reasons: reasons::open().inspect_err(|error| tracing::warn!(%error, "cannot collect libcontainer's messages; errors will name fewer reasons")).ok(),
        };
        let mut adapted = adapt::container(&spec, &with, payload.kind()).map_err(BuildError::Capabilities)?;
        folders::keep_modes(&mut adapted, &modes);
        let masks = Masks::take(&mut adapted);
        self.write(&adapted)?;
        let lowering = adapted.process().as_ref().filter(|_| payload.kind() == adapt::Kind::Wasm);
        let lowering = lowering.and_then(adapt::to_be_lowered).map(Confinement::lowering);
        let mut container = builder(&self.container.id, &self.folder, &self.streams, &spec, payload, lowering, &runc)?
            .as_init(&self.folder)
            .with_systemd(false)
            .with_no_pivot(runc.no_pivot_root)
            .as_sibling(true)
            .build()
            .inspect_err(|_| claim.restore())
            .map_err(|error| build_error("container", &error, &Specs { original: &spec, adapted: &adapted }))?;
        reasons::close();
        let pid = container.pid().map(|pid| pid.as_raw());
        let pid = pid.ok_or_else(|| BuildError::Init(io::Error::other("libcontainer did not name it")))?;
        let id = ProcessId::of(pid).map_err(BuildError::Init)?;
        claimed.init = Some(id);
        claimed.save(&self.folder).map_err(self.folder_failed())?;
        // Hooks that run from now on get this path.
        container.state.bundle.clone_from(&self.container.bundle);
        container.save().map_err(|error| BuildError::State(chain(&error)))?;
        if let Some(stage) = stage {
            stage.finish(pid)?;
        }
        folders::close_folders(&spec, pid).map_err(BuildError::Devices)?;
        masks.apply(pid)?;
        let cgroup = claim.taken_by(pid)?;
        drop(building);
        Ok(Report::Process { id, cgroup: Some(cgroup), about: observe::about(&tracing::Span::current()) })
    }

    /// Makes the container's folder. First removes the remains of an earlier container with the same id, whose removal was interrupted.
    fn take_folder(&self) -> Result<Claimed, BuildError> {
        if self.folder.exists() {
            let earlier = Claimed::load(&self.folder);
            let running = earlier.as_ref().and_then(|earlier| earlier.init).filter(|init| init.is_running());
            if let Some(init) = running {
                return Err(BuildError::Exists { id: self.container.id.clone(), pid: init.pid });
            }
            let remove = Remove {
                id: self.container.id.clone(),
                bundle: self.container.bundle.clone(),
                folder: self.folder.clone(),
                helper: None,
                init: None,
                cgroup: None,
            };
            remove.run().map_err(|source| BuildError::Stale { id: self.container.id.clone(), source })?;
        }
        let claimed = Claimed::by_this_process().and_then(|claimed| claimed.in_pod(&self.pod, &self.container.bundle));
        let claimed = claimed.map_err(BuildError::Init)?;
        // The folder's spec will hold the container's environment.
        let made = fs::create_dir_all(self.folder.parent().unwrap_or(&self.folder))
            .and_then(|()| DirBuilder::new().mode(0o700).create(&self.folder))
            .and_then(|()| claimed.save(&self.folder));
        made.map_err(self.folder_failed()).map(|()| claimed)
    }

    /// Makes device files of the image unusable, where that cannot hurt: the container has its own `/dev` and can make no devices
    /// elsewhere.
    fn take_devices(&self, spec: &Spec, kind: adapt::Kind) -> Result<(), BuildError> {
        let makes_devices = kind == adapt::Kind::Native && spec::can_make_devices(spec);
        if self.container.rootfs.is_empty() || !spec::has_own_devices(spec) || makes_devices {
            return Ok(());
        }
        let rootfs = self.container.bundle.join("rootfs");
        match mounts::forbid_devices(&rootfs) {
            // The container's device list holds in any case.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOSYS) => {
                tracing::warn!(%error, "cannot mount the root filesystem without devices: the kernel is too old");
                Ok(())
            }
            other => other.map_err(|source| BuildError::Folder { path: rootfs, source }),
        }
    }

    /// Writes the spec for libcontainer.
    fn write(&self, spec: &Spec) -> Result<(), BuildError> {
        let written = serde_json::to_vec(spec).map_err(io::Error::other);
        written.and_then(|text| fs::write(self.folder.join("config.json"), text)).map_err(self.folder_failed())
    }

    fn folder_failed(&self) -> impl Fn(io::Error) -> BuildError {
        |source| BuildError::Folder { path: self.folder.clone(), source }
    }
}

/// Refuses a hook that cannot be run, before anything is built.
fn check_hooks(spec: &Spec) -> Result<(), BuildError> {
    let hooks =
        spec.hooks().iter().flat_map(|hooks| [hooks.prestart(), hooks.create_runtime(), hooks.create_container()]);
    for hook in hooks.flatten().flatten() {
        let missing = |source| BuildError::Hook { path: hook.path().clone(), source };
        fs::metadata(hook.path()).map_err(missing)?;
    }
    Ok(())
}
