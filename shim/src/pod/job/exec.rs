//! Executes another process in a running container: a native program, or wasm.
//!
//! libcontainer's builder for such processes has two gaps, which are filled here. It does not join a user namespace. So the helper joins
//! it first, all later steps happen inside, and libcontainer gets a spec without it. And it drops the container's seccomp filter: the
//! executor applies it, see [`Confinement`].
//!
//! libcontainer leaves a socket for each process in the folder of the container's state. So it gets a separate folder, with copies of the
//! state and of the spec that the container was built from. That folder is removed when the process runs.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use prewasi_precompiler::StoreAddress;
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::build::{BuildError, builder, check_cwd};
use super::inherit::inherit;
use super::payload::{Payload, Prepared, Search};
use super::reason::{Specs, build_error};
use super::view::View;
use crate::engine::EngineConstructor;
use crate::failure::Failure;
use crate::node::cgroup::ClaimError;
use crate::node::pid::ProcessId;
use crate::pod::entrypoint::Entrypoint;
use crate::pod::job::Report;
use crate::pod::launch::Confinement;
use crate::pod::options::RuntimeOptions;
use crate::pod::record::Claimed;
use crate::pod::spec::{self, adapt};
use crate::pod::stdio::Streams;
use crate::telemetry::log;
use crate::telemetry::observe::About;
use crate::telemetry::reasons;
use crate::telemetry::trace::SpanParent;

/// Name of the file in which libcontainer keeps the state of a container.
const STATE: &str = "state.json";

/// A job: execute another process in a container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Exec {
    pub(crate) id: String,
    pub(crate) exec_id: String,
    pub(crate) bundle: PathBuf,
    /// The container's folder in the runtime folder.
    pub(crate) folder: PathBuf,
    /// The init process of the container.
    pub(crate) init: ProcessId,
    pub(crate) process: Process,
    pub(crate) streams: Streams,
    /// The containerd that the container belongs to.
    pub(crate) store: StoreAddress,
    /// Options of the container's runtime. Their restrictions hold for every process in the container.
    pub(crate) options: RuntimeOptions,
    pub(crate) origin: Option<SpanParent>,
}

impl Exec {
    /// Executes the process and reports it.
    pub(super) fn run(&self, engine: EngineConstructor) -> Result<Report, Failure> {
        // No id begins with `~`, so the name differs from libcontainer's folder, which is named by the container's id.
        let folder = self.folder.join(format!("~exec-{}", self.exec_id));
        let result = self.exec(&folder, engine);
        if let Err(error) = fs::remove_dir_all(&folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %folder.display(), "cannot remove the remains of an exec process");
        }
        Ok(result?)
    }

    fn exec(&self, folder: &Path, engine: EngineConstructor) -> Result<Report, BuildError> {
        let mut spec = spec::load(&self.bundle)?;
        let options = self.options.of_container(&spec)?;
        let runc = self.options.for_runc()?;
        log::set_level(options.log_level);
        let without_init = spec::without_init(&spec);
        let args = spec::args(without_init.as_ref().unwrap_or(&spec));
        let own = Entrypoint::parse(args.first().map_or("", String::as_str)).program;
        let mut process = self.process.clone();
        if let Some(own) = spec.process() {
            inherit(&mut process, own);
        }
        check_cwd(Some(&process))?;
        let joins_users = spec::has_user_namespace(&spec);
        spec.set_process(Some(process.clone()));
        let pin = Claimed::load(&self.folder).and_then(|claimed| claimed.image);
        let search = Search {
            id: &self.id,
            store: &self.store,
            view: View::Running(format!("/proc/{}/root", self.init.pid).into()),
            bundle: &self.bundle,
            own: Some(own),
            pin: pin.as_ref(),
            origin: self.origin.as_ref(),
        };
        let Prepared { payload, .. } = search.payload(&spec, &options, engine)?;
        if let Payload::Wasm(_) = payload {
            // libcontainer would apply the profile to a program that it executes.
            process.set_apparmor_profile(None);
        }
        adapt::process(&mut process, payload.kind()).map_err(BuildError::Capabilities)?;
        let lowered = (payload.kind() == adapt::Kind::Wasm).then(|| adapt::to_be_lowered(&process)).flatten();
        let confinement =
            Confinement::of_other_process(&spec, &mut process, lowered).ok_or(BuildError::SeccompNotify)?;
        self.copy_state(folder, joins_users)?;
        let process = in_memory(&process).map_err(BuildError::Process)?;
        let path = format!("/proc/self/fd/{}", process.as_raw_fd());
        let builder = builder(&self.id, folder, &self.streams, &spec, payload, Some(confinement), &runc)?;
        if let Some(cgroup) = Claimed::load(&self.folder).and_then(|claimed| claimed.cgroup) {
            cgroup.join_named().map_err(ClaimError::Join)?;
        }
        // Stays open until the process has been made.
        let _namespaces = if joins_users { self.join_users().map_err(BuildError::UserNamespace)? } else { Vec::new() };
        let building = tracing::info_span!("build").entered();
        if let Err(error) = reasons::open() {
            tracing::warn!(%error, "cannot collect libcontainer's messages; errors will name fewer reasons");
        }
        let pid = builder
            .as_tenant()
            .with_process(Some(path))
            .with_detach(matches!(self.streams, Streams::Console(_)))
            .as_sibling(true)
            .build()
            .map_err(|error| build_error("process", &error, &Specs { original: &spec, adapted: &spec }))?
            .as_raw();
        drop(building);
        // The program may have ended already.
        let id = ProcessId::of(pid).unwrap_or_else(|_| ProcessId::ended(pid));
        Ok(Report::Process { id, cgroup: None, about: About::default() })
    }

    /// Makes libcontainer's folder: the state of the container, with this folder as its bundle, and the spec that the container was built
    /// from. If the user namespace has been joined already, the spec does not have it.
    fn copy_state(&self, folder: &Path, joins_users: bool) -> Result<(), BuildError> {
        let copy = || {
            let mut spec: Spec = serde_json::from_slice(&fs::read(self.folder.join("config.json"))?)?;
            if let Some(linux) = spec.linux_mut().as_mut().filter(|_| joins_users) {
                let others =
                    linux.namespaces().iter().flatten().filter(|namespace| namespace.typ() != LinuxNamespaceType::User);
                let others = others.cloned().collect();
                linux.set_namespaces(Some(others)).set_uid_mappings(None).set_gid_mappings(None);
            }
            let mut state: Value = serde_json::from_slice(&fs::read(self.folder.join(&self.id).join(STATE))?)?;
            state["bundle"] = serde_json::json!(folder);
            fs::create_dir_all(folder.join(&self.id))?;
            fs::write(folder.join("config.json"), serde_json::to_vec(&spec)?)?;
            fs::write(folder.join(&self.id).join(STATE), serde_json::to_vec(&state)?)
        };
        copy().map_err(|source| BuildError::Folder { path: folder.to_owned(), source })
    }

    /// Joins the user namespace. After that this process may not read the namespaces of a process that is not dumpable, and that of a
    /// wasm container is not. So their files are opened before. libcontainer finds them at `/proc/PID/ns`, in a mount namespace that only
    /// this process has. The files must stay open until the process has been made.
    fn join_users(&self) -> io::Result<Vec<fs::File>> {
        let folder = PathBuf::from(format!("/proc/{}/ns", self.init.pid));
        let users = fs::File::open(folder.join("user"))?;
        let mut opened = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let name = entry?.file_name();
            opened.push((fs::File::open(folder.join(&name))?, name));
        }
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
        mount(Some("tmpfs"), &folder, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
        for (file, name) in &opened {
            symlink(format!("/proc/self/fd/{}", file.as_raw_fd()), folder.join(name))?;
        }
        setns(users, CloneFlags::CLONE_NEWUSER)?;
        Ok(opened.into_iter().map(|(file, _)| file).collect())
    }
}

/// Writes a process's description to a file in memory, which needs no room on a disk.
fn in_memory(process: &Process) -> io::Result<fs::File> {
    let mut file = fs::File::from(rustix::fs::memfd_create("process.json", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(process)?)?;
    Ok(file)
}
