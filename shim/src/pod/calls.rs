//! The calls of the task API on the daemon's containers, without the wire format.

mod abandoned;
mod control;
mod create;
mod exec;
mod make;
mod signal;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

pub(crate) use create::CreateRequest;
pub(crate) use exec::ExecRequest;

use prewasi_precompiler::{StoreAddress, chain};

use crate::api::args::Flags;
use crate::api::error::TaskError;
use crate::api::events::{Event, Events};
use crate::node::pid::{Exit, signal_child};
use crate::pod::container::{Container, Phase, Process};
use crate::pod::folders;
use crate::pod::helper::Helpers;
use crate::pod::job::{Job, Remove, Start};
use crate::pod::orphans;
use crate::pod::pending;
use crate::pod::record::Record;
use crate::telemetry::observe;
use crate::telemetry::trace::{Context, Traces};

/// The containers of one pod, and the state that the daemon needs to serve them.
pub(crate) struct Pod {
    namespace: String,
    /// Name of the pod, which is the id of its sandbox.
    pod: String,
    address: PathBuf,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    helpers: Helpers,
    events: Events,
    shutdown: Notify,
    traces: Traces,
    /// Whether it was said which options are not obeyed.
    warned: AtomicBool,
}

impl Pod {
    /// Makes a pod without containers.
    pub(crate) fn new(flags: &Flags, helpers: Helpers, events: Events, traces: Traces) -> Self {
        Self {
            namespace: flags.namespace.clone(),
            pod: flags.pod.clone(),
            address: flags.address.clone(),
            containers: Mutex::default(),
            helpers,
            events,
            shutdown: Notify::new(),
            traces,
            warned: AtomicBool::new(false),
        }
    }

    /// Returns the span for everything that concerns a container, also while it is being created.
    pub(crate) fn span(&self, id: &str) -> tracing::Span {
        let known = self.containers().get(id).map(|container| container.span.clone());
        known.unwrap_or_else(|| observe::container(&self.namespace, id, &self.pod))
    }

    /// Finds a container.
    ///
    /// # Errors
    /// [`TaskError::NoContainer`].
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, TaskError> {
        let container = self.containers().get(id).cloned();
        let container = container.ok_or_else(|| TaskError::NoContainer { id: id.to_owned() })?;
        container.set_connected(false);
        Ok(container)
    }

    /// Finds a process of a container; the init process has no exec id.
    ///
    /// # Errors
    /// [`TaskError::NoContainer`], [`TaskError::NoProcess`].
    pub(crate) fn process(&self, id: &str, exec_id: &str) -> Result<Arc<Process>, TaskError> {
        self.container(id)?.process(exec_id)
    }

    /// Starts a container that has been created, or a process in it.
    ///
    /// # Errors
    /// [`TaskError`].
    pub(crate) async fn start(
        self: Arc<Self>,
        id: String,
        exec_id: String,
        above: Option<Context>,
    ) -> Result<u32, TaskError> {
        let container = self.container(&id)?;
        let process = container.process(&exec_id)?;
        let call = container.trace.call(if exec_id.is_empty() { "start" } else { "exec" }, above);
        let started = if exec_id.is_empty() {
            self.start_init(&container, &process).await
        } else {
            self.start_exec(&container, &process, call.origin()).await
        };
        call.end(said(&started));
        started
    }

    async fn start_init(&self, container: &Container, process: &Process) -> Result<u32, TaskError> {
        let begun = Instant::now();
        let id = container.id.clone();
        let _turn = process.turn.lock().await;
        {
            let mut state = process.state();
            if state.phase != Phase::Created {
                return Err(TaskError::State { action: "start", id, state: state.phase.word() });
            }
            state.phase = Phase::Starting;
        }
        let started = self.helpers.work(Job::Start(Start { state: self.folder(&id).join(&id) })).await;
        match started {
            Ok(()) => {
                let pid = process.pid();
                self.events.publish(&id, Event::Start { pid });
                if let Some(exit) = process.started() {
                    self.ended(container, process, exit);
                }
                tracing::info!(pid, ms = begun.elapsed().as_millis(), "container started");
                Ok(pid)
            }
            Err(source) => {
                if let Some(exit) = process.not_started() {
                    self.ended(container, process, exit);
                }
                Err(TaskError::Failed { action: "start", id, source })
            }
        }
    }

    /// Removes a container, or a process of one, that has ended or was never started.
    ///
    /// # Errors
    /// [`TaskError::State`] if it runs.
    pub(crate) async fn delete(
        self: Arc<Self>,
        id: String,
        exec_id: String,
        above: Option<Context>,
    ) -> Result<(u32, Exit), TaskError> {
        let container = self.container(&id)?;
        let process = container.process(&exec_id)?;
        if !exec_id.is_empty() {
            return self.delete_exec(&container, &process).await;
        }
        let call = container.trace.call("delete", above);
        let deleted = self.delete_init(&container, &process).await;
        call.end(said(&deleted));
        deleted
    }

    async fn delete_init(&self, container: &Container, init: &Process) -> Result<(u32, Exit), TaskError> {
        let begun = Instant::now();
        let id = container.id.clone();
        abandon(init);
        let _turn = init.turn.lock().await;
        let (phase, process) = {
            let state = init.state();
            (state.phase, state.id)
        };
        let pid = init.pid();
        match phase {
            Phase::Creating | Phase::Stopped => {}
            Phase::Created => {
                if let Some(process) = process {
                    // The process may end by itself first.
                    let _ = signal_child(process.pid, nix::libc::SIGKILL);
                }
            }
            Phase::Starting | Phase::Running => {
                let word = if container.is_paused() { "paused" } else { phase.word() };
                return Err(TaskError::State { action: "delete", id, state: word });
            }
        }
        let exit = init.wait().await;
        if self.containers().get(&id).is_none() {
            // The creation was cancelled, and its remains are removed.
            return Ok((pid, exit));
        }
        let removed = self.helpers.work(Job::Remove(Box::new(self.remains(container)))).await;
        removed.map_err(|source| TaskError::Failed { action: "delete", id: id.clone(), source })?;
        self.forget(container);
        self.events.publish(&id, Event::Delete { pid, exit });
        tracing::info!(pid, status = exit.status, ms = begun.elapsed().as_millis(), "container deleted");
        Ok((pid, exit))
    }

    /// Lists the processes of a container, its init process first. As with runc's shim an ended process is not listed, with one
    /// exception. A containerd that was restarted takes a container without processes for one that was never created, and loses its exit
    /// status. The shim recognises that containerd by its calls: `Connect`, followed by this one.
    ///
    /// # Errors
    /// [`TaskError::NoContainer`].
    pub(crate) fn pids(&self, id: &str) -> Result<Vec<(u32, Option<String>)>, TaskError> {
        let is_restarted = self.containers().get(id).is_some_and(|container| container.is_connected());
        let container = self.container(id)?;
        let name = |process: &Arc<Process>| Some((process.pid(), process.exec_id.clone()));
        let named: HashMap<u32, String> = container.others().values().filter_map(name).collect();
        let init = container.init.state().id.map(|init| init.pid);
        let others = container.cgroup().unwrap_or_default().pids().into_iter().filter(|pid| Some(*pid) != init);
        let init = init.filter(|_| is_restarted || container.init.is_alive());
        let pids = init.into_iter().chain(others).map(i32::cast_unsigned);
        Ok(pids.map(|pid| (pid, named.get(&pid).cloned())).collect())
    }

    /// Closes the standard input of a process.
    ///
    /// # Errors
    /// [`TaskError::NoContainer`], [`TaskError::NoProcess`].
    pub(crate) fn close_stdin(&self, id: &str, exec_id: &str) -> Result<(), TaskError> {
        self.process(id, exec_id)?.state().close_stdin();
        Ok(())
    }

    /// Sets the size of a process's terminal.
    ///
    /// # Errors
    /// [`TaskError::NoTerminal`] if it has none.
    pub(crate) fn resize(&self, id: &str, exec_id: &str, columns: u32, rows: u32) -> Result<(), TaskError> {
        let process = self.process(id, exec_id)?;
        if !process.stdio.terminal {
            return Err(TaskError::NoTerminal { id: id.to_owned() });
        }
        let small = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        let resized = process.state().resize(small(columns), small(rows));
        resized.map_err(|source| TaskError::Io { action: "resize the terminal of", id: id.to_owned(), source })
    }

    /// Completes removals that were interrupted by the death of their process, and removes containers that no daemon serves.
    pub(crate) async fn finish_removals(self: Arc<Self>) {
        let noted = pending::take_over().into_iter().map(|(note, remove)| (Some(note), remove));
        let forgotten = orphans::take_forgotten(&self.address, &self.namespace);
        for (note, remove) in noted.chain(forgotten) {
            let id = remove.id.clone();
            match self.helpers.work(Job::Remove(Box::new(remove))).await {
                Ok(()) => note.as_deref().map_or((), pending::forget),
                Err(error) => tracing::warn!(id, %error, "cannot finish an interrupted removal"),
            }
        }
    }

    /// Ends the daemon if it has no containers.
    pub(crate) fn shut_down(&self) {
        if self.containers().is_empty() {
            self.shutdown.notify_one();
        }
    }

    /// Waits until the daemon is to end.
    pub(crate) async fn wait_for_shutdown(&self) {
        self.shutdown.notified().await;
    }

    /// Removes the remains of a failed creation.
    async fn clear(&self, container: &Container) {
        if let Err(error) = self.helpers.work(Job::Remove(Box::new(self.remains(container)))).await {
            tracing::error!(%error, "cannot remove the remains of a failed creation");
        }
    }

    fn remains(&self, container: &Container) -> Remove {
        let state = container.init.state();
        Remove {
            id: container.id.clone(),
            bundle: container.bundle.clone(),
            folder: self.folder(&container.id),
            helper: state.helper,
            init: state.id,
            cgroup: container.cgroup(),
        }
    }

    /// Drops a container from the pod. Calls that still wait for one of its processes return: the process counts as ended.
    fn forget(&self, container: &Container) {
        self.containers().remove(&container.id);
        let others: Vec<Arc<Process>> = container.others().drain().map(|(_, process)| process).collect();
        for process in others.iter().chain([&container.init]).filter(|process| process.exit().is_none()) {
            process.end(Exit::killed());
        }
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the address of the containerd that the pod belongs to.
    fn store(&self) -> StoreAddress {
        StoreAddress::Containerd { address: self.address.clone(), namespace: self.namespace.clone() }
    }

    fn folder(&self, id: &str) -> PathBuf {
        folders::container(&self.address, &self.namespace, id)
    }
}

/// Returns the text of a call's failure.
fn said<T>(result: &Result<T, TaskError>) -> Option<String> {
    result.as_ref().err().map(|error| chain(error))
}

/// Cancels the creation of a container.
fn abandon(init: &Process) {
    let mut state = init.state();
    if state.phase == Phase::Creating {
        state.unwanted = true;
        if let Some(helper) = state.helper {
            helper.kill_group();
        }
    }
}

/// Saves a container's record to disk. A disk that fails is no error of the call.
fn save(container: &Container) {
    let mut record = Record::default();
    {
        let state = container.init.state();
        record.helper = state.helper.filter(|_| state.phase == Phase::Creating);
        record.init = state.id;
    }
    record.cgroup = container.cgroup();
    record.exit = container.init.exit().map(Into::into);
    if let Err(error) = record.save(&container.bundle) {
        tracing::warn!(%error, "cannot store the state of the container on disk");
    }
}
