//! The daemon's containers and what can be done with them: each call of the task API, without its wire format.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::cgroup::Cgroup;
use crate::container::{Container, Phase};
use crate::error::{Failure, TaskError};
use crate::events::{Event, Events};
use crate::folders;
use crate::helper::Helpers;
use crate::job::{Create, Job, Remove, Start};
use crate::mounts::Mount;
use crate::process::{Exit, ProcessId, signal_child};
use crate::record::Record;
use crate::spec;
use crate::stdio::{Stdio, StdioPaths};

/// The highest number of a signal.
const SIGNAL_MAX: u32 = 64;

/// The containers of one pod.
pub(crate) struct Shim {
    namespace: String,
    address: PathBuf,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    helpers: Helpers,
    events: Events,
    shutdown: Notify,
}

/// A request to create a container.
#[derive(Debug)]
pub(crate) struct CreateRequest {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: Vec<Mount>,
    pub(crate) stdio: StdioPaths,
}

impl Shim {
    /// Makes a shim without containers.
    pub(crate) fn new(namespace: String, address: PathBuf, helpers: Helpers, events: Events) -> Self {
        Self { namespace, address, containers: Mutex::default(), helpers, events, shutdown: Notify::new() }
    }

    /// Finds a container.
    ///
    /// # Errors
    /// [`TaskError::NoContainer`], and [`TaskError::NoProcess`] as there are no other processes than init.
    pub(crate) fn container(&self, id: &str, exec_id: &str) -> Result<Arc<Container>, TaskError> {
        let container = self.containers().get(id).cloned();
        let container = container.ok_or_else(|| TaskError::NoContainer { id: id.to_owned() })?;
        if exec_id.is_empty() {
            return Ok(container);
        }
        Err(TaskError::NoProcess { id: id.to_owned(), exec_id: exec_id.to_owned() })
    }

    /// Creates a container; its init process waits to be started.
    ///
    /// # Errors
    /// [`TaskError`]; nothing of the container is left then.
    pub(crate) async fn create(self: Arc<Self>, request: CreateRequest) -> Result<u32, TaskError> {
        let begun = Instant::now();
        let id = request.id;
        if !is_id(&id) {
            return Err(TaskError::Id { id });
        }
        let stdio = Stdio::new(&id, &request.stdio)?;
        let held = stdio.hold(&id)?;
        let container = Arc::new(Container::new(id.clone(), request.bundle.clone(), request.stdio.clone(), held));
        let _turn = container.turn.lock().await;
        {
            let mut containers = self.containers();
            if containers.contains_key(&id) {
                return Err(TaskError::Exists { id });
            }
            containers.insert(id.clone(), container.clone());
        }
        let job = Job::Create(Box::new(Create {
            id: id.clone(),
            bundle: request.bundle,
            containers: self.state_folder(),
            rootfs: request.rootfs,
            stdio,
            address: self.address.clone(),
            namespace: self.namespace.clone(),
        }));
        let started = |helper: ProcessId| {
            let unwanted = {
                let mut state = container.state();
                state.helper = Some(helper);
                state.unwanted
            };
            save(&container);
            if unwanted {
                helper.kill_group();
            }
        };
        let made = self.helpers.make_process(job, started).await;
        let process = match made {
            Ok(process) => process,
            Err(source) => {
                let source = if container.state().unwanted { Failure::given_up() } else { source };
                self.clear(&container).await;
                self.forget(&container);
                container.end(Exit::killed());
                return Err(TaskError::Failed { action: "create", id, source });
            }
        };
        let pid = process.id.pid.cast_unsigned();
        {
            let mut state = container.state();
            state.phase = Phase::Created;
            state.helper = None;
            state.init = Some(process.id);
            state.cgroup = Some(process.cgroup);
        }
        save(&container);
        let bundle = container.bundle.display().to_string();
        self.events.publish(&id, Event::Create { bundle, stdio: container.stdio.clone(), pid });
        let exit = process.exit;
        let (shim, watched) = (self.clone(), container.clone());
        tokio::spawn(async move {
            // The reaper lives as long as the runtime.
            let exit = exit.await.unwrap_or_else(|_| Exit::killed());
            if let Some(exit) = watched.end(exit) {
                shim.ended(&watched, exit);
            }
        });
        tracing::info!(id, pid, ms = begun.elapsed().as_millis(), "container created");
        Ok(pid)
    }

    /// Starts a container that has been created.
    ///
    /// # Errors
    /// [`TaskError`].
    pub(crate) async fn start(self: Arc<Self>, id: String, exec_id: String) -> Result<u32, TaskError> {
        let begun = Instant::now();
        let container = self.container(&id, &exec_id)?;
        let _turn = container.turn.lock().await;
        {
            let mut state = container.state();
            if state.phase != Phase::Created {
                return Err(TaskError::State { action: "start", id, state: state.phase.word() });
            }
            state.phase = Phase::Starting;
        }
        let started = self.helpers.work(Job::Start(Start { state: self.state_folder().join(&id) })).await;
        match started {
            Ok(()) => {
                let pid = container.pid();
                self.events.publish(&id, Event::Start { pid });
                if let Some(exit) = container.started() {
                    self.ended(&container, exit);
                }
                tracing::info!(id, pid, ms = begun.elapsed().as_millis(), "container started");
                Ok(pid)
            }
            Err(source) => {
                if let Some(exit) = container.not_started() {
                    self.ended(&container, exit);
                }
                Err(TaskError::Failed { action: "start", id, source })
            }
        }
    }

    /// Sends a signal to a container's init process, or to all its processes.
    ///
    /// # Errors
    /// [`TaskError::Ended`] if there is nobody to take it.
    pub(crate) fn kill(&self, id: String, exec_id: &str, signal: u32, all: bool) -> Result<(), TaskError> {
        let container = self.container(&id, exec_id)?;
        if signal > SIGNAL_MAX {
            return Err(TaskError::Signal { id, signal });
        }
        let (init, cgroup, helper) = {
            let state = container.state();
            let alive = state.phase != Phase::Stopped;
            (state.init.filter(|_| alive), state.cgroup.clone(), state.helper)
        };
        let Some(init) = init else {
            if let Some(helper) = helper.filter(|_| signal == nix::libc::SIGKILL.cast_unsigned()) {
                container.state().unwanted = true;
                helper.kill_group();
                return Ok(());
            }
            return Err(TaskError::Ended { id });
        };
        let signal = signal.cast_signed();
        if all {
            for pid in cgroup.iter().flat_map(Cgroup::pids).filter(|pid| *pid != init.pid) {
                // One that has just ended needs no signal.
                let _ = signal_child(pid, signal);
            }
        }
        match signal_child(init.pid, signal) {
            // It has ended and has not been waited for yet.
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Err(TaskError::Ended { id }),
            Err(source) => Err(TaskError::Io { action: "signal", id, source }),
            Ok(()) => Ok(()),
        }
    }

    /// Removes a container that has ended or was never started.
    ///
    /// # Errors
    /// [`TaskError::State`] if it runs.
    pub(crate) async fn delete(self: Arc<Self>, id: String, exec_id: String) -> Result<(u32, Exit), TaskError> {
        let begun = Instant::now();
        let container = self.container(&id, &exec_id)?;
        self.abandon(&container);
        let _turn = container.turn.lock().await;
        let (phase, init) = {
            let state = container.state();
            (state.phase, state.init)
        };
        let pid = container.pid();
        match phase {
            Phase::Creating | Phase::Stopped => {}
            Phase::Created => {
                if let Some(init) = init {
                    // It may end by itself first.
                    let _ = signal_child(init.pid, nix::libc::SIGKILL);
                }
            }
            Phase::Starting | Phase::Running => {
                return Err(TaskError::State { action: "delete", id, state: phase.word() });
            }
        }
        let exit = container.wait().await;
        if self.containers().get(&id).is_none() {
            // Its creation has been given up, and all of it is gone.
            return Ok((pid, exit));
        }
        let removed = self.helpers.work(Job::Remove(self.remains(&container))).await;
        removed.map_err(|source| TaskError::Failed { action: "delete", id: id.clone(), source })?;
        self.forget(&container);
        self.events.publish(&id, Event::Delete { pid, exit });
        tracing::info!(id, pid, status = exit.status, ms = begun.elapsed().as_millis(), "container deleted");
        Ok((pid, exit))
    }

    /// Lists the processes of a container, its init process first, even if that has ended: a containerd that has been
    /// restarted takes a container without processes for one that was never made, and forgets how it ended.
    ///
    /// # Errors
    /// [`TaskError::NoContainer`].
    pub(crate) fn pids(&self, id: &str) -> Result<Vec<u32>, TaskError> {
        let container = self.container(id, "")?;
        let state = container.state();
        let init = state.init.map(|init| init.pid);
        let others = state.cgroup.iter().flat_map(Cgroup::pids).filter(|pid| Some(*pid) != init);
        Ok(init.into_iter().chain(others).map(i32::cast_unsigned).collect())
    }

    /// Lets the standard input of a container end.
    ///
    /// # Errors
    /// [`TaskError::NoContainer`].
    pub(crate) fn close_stdin(&self, id: &str, exec_id: &str) -> Result<(), TaskError> {
        self.container(id, exec_id)?.state().held.close_stdin();
        Ok(())
    }

    /// Asks the daemon to end if it has no containers.
    pub(crate) fn shut_down(&self) {
        if self.containers().is_empty() {
            self.shutdown.notify_one();
        }
    }

    /// Waits until the daemon is to end.
    pub(crate) async fn wait_for_shutdown(&self) {
        self.shutdown.notified().await;
    }

    /// Gives up the creation of a container that is on its way.
    fn abandon(&self, container: &Container) {
        let mut state = container.state();
        if state.phase == Phase::Creating {
            state.unwanted = true;
            if let Some(helper) = state.helper {
                helper.kill_group();
            }
        }
    }

    /// Tells the end of a container's init process, and ends what does not end with it.
    fn ended(&self, container: &Container, exit: Exit) {
        let pid = container.pid();
        let shares_pids = spec::load(&container.bundle).is_ok_and(|spec| !spec::has_own_pids(&spec));
        let cgroup = container.state().cgroup.clone();
        if let Some(cgroup) = cgroup.filter(|_| shares_pids) {
            for pid in cgroup.pids() {
                // One that has just ended need not be killed.
                let _ = signal_child(pid, nix::libc::SIGKILL);
            }
        }
        save(container);
        self.events.publish(&container.id, Event::Exit { pid, exit });
        tracing::info!(id = container.id, pid, status = exit.status, "container ended");
    }

    /// Takes away what a failed creation has left.
    async fn clear(&self, container: &Container) {
        if let Err(error) = self.helpers.work(Job::Remove(self.remains(container))).await {
            tracing::error!(id = container.id, %error, "cannot clear what a failed creation has left");
        }
    }

    fn remains(&self, container: &Container) -> Remove {
        let state = container.state();
        Remove {
            id: container.id.clone(),
            bundle: container.bundle.clone(),
            state: self.state_folder().join(&container.id),
            helper: state.helper,
            init: state.init,
            cgroup: state.cgroup.clone(),
        }
    }

    fn forget(&self, container: &Container) {
        self.containers().remove(&container.id);
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_folder(&self) -> PathBuf {
        folders::containers(&self.address, &self.namespace)
    }
}

/// Keeps what is known of a container on disk, as far as the disk allows.
fn save(container: &Container) {
    let mut record = Record::default();
    {
        let state = container.state();
        record.helper = state.helper;
        record.init = state.init;
        record.cgroup.clone_from(&state.cgroup);
    }
    record.exit = container.exit().map(Into::into);
    if let Err(error) = record.save(&container.bundle) {
        tracing::warn!(id = container.id, %error, "cannot keep the state of the container on disk");
    }
}

/// Says whether an id can be the name of a folder; containerd checks the same.
pub(crate) fn is_id(id: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+');
    !id.is_empty() && id.chars().all(good) && Path::new(id).components().count() == 1 && id != ".." && id != "."
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What could lead to another folder is no id.
    #[test]
    fn ids() {
        for good in ["a", "wasm-1.0_x", "a..b"] {
            assert!(is_id(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "/a", "a\0", "a b"] {
            assert!(!is_id(bad), "{bad:?}");
        }
    }
}
