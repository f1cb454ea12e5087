//! Processes that are executed in a running container.

use std::sync::Arc;
use std::time::Instant;

use libcontainer::oci_spec::runtime::Process as ProcessSpec;

use super::Pod;
use crate::api::error::TaskError;
use crate::api::events::Event;
use crate::node::pid::Exit;
use crate::pod::container::{Container, Phase, Process};
use crate::pod::folders::is_id;
use crate::pod::job::{Exec, Job};
use crate::pod::spec;
use crate::pod::stdio::{Stdio, StdioPaths};
use crate::telemetry::trace::SpanParent;

/// A request to register an exec process.
#[derive(Debug)]
pub(crate) struct ExecRequest {
    pub(crate) id: String,
    pub(crate) exec_id: String,
    pub(crate) stdio: StdioPaths,
    /// The process as the runtime specification has it, in JSON.
    pub(crate) spec: Vec<u8>,
}

impl Pod {
    /// Registers an exec process; [`Self::start`] executes it.
    ///
    /// # Errors
    /// [`TaskError`].
    pub(crate) fn add_exec(&self, request: ExecRequest) -> Result<(), TaskError> {
        let ExecRequest { id, exec_id, mut stdio, spec } = request;
        let container = self.container(&id)?;
        if !is_id(&exec_id) {
            return Err(TaskError::Id { id: exec_id });
        }
        let broken = |source| TaskError::ExecSpec { id: id.clone(), exec_id: exec_id.clone(), source };
        let mut spec: ProcessSpec = spec::parse(&spec).map_err(broken)?;
        // The request's value counts. The two may differ if a client copies the container's own process.
        stdio.terminal |= spec.terminal().unwrap_or_default();
        spec.set_terminal(Some(stdio.terminal));
        Stdio::new(&stdio).map_err(|source| TaskError::StdioUri { id: id.clone(), source })?;
        let phase = container.init.state().phase;
        if !matches!(phase, Phase::Starting | Phase::Running) {
            return Err(TaskError::State { action: "execute a process in", id, state: phase.word() });
        }
        let process = Process::other(exec_id.clone(), stdio, spec);
        {
            let mut others = container.others();
            if others.contains_key(&exec_id) {
                return Err(TaskError::ExecExists { id, exec_id });
            }
            others.insert(exec_id.clone(), Arc::new(process));
        }
        self.events.publish(&id, Event::ExecAdded { exec_id });
        Ok(())
    }

    /// Executes a registered process.
    pub(super) async fn start_exec(
        self: &Arc<Self>,
        container: &Arc<Container>,
        process: &Arc<Process>,
        origin: Option<SpanParent>,
    ) -> Result<u32, TaskError> {
        let begun = Instant::now();
        let _turn = process.turn.lock().await;
        let _gate = container.gate.read().await;
        let id = || container.id.clone();
        let exec_id = || process.exec_id.clone();
        let init = {
            let state = container.init.state();
            let paused = container.is_paused();
            let word = if paused { "paused" } else { state.phase.word() };
            let init = state.id.filter(|_| state.phase == Phase::Running && !paused);
            init.ok_or_else(|| TaskError::State { action: "execute a process in", id: id(), state: word })?
        };
        {
            let mut state = process.state();
            if state.phase != Phase::Created {
                let state = state.phase.word();
                return Err(TaskError::ProcessState { action: "start", id: id(), exec_id: exec_id(), state });
            }
            state.phase = Phase::Starting;
        }
        let made = self.execute(container, process, init, origin).await;
        match made {
            Ok(exit) => {
                let pid = process.pid();
                self.watch(container, process, exit);
                self.events.publish(&container.id, Event::ExecStarted { exec_id: exec_id(), pid });
                if process.state().unwanted
                    && let Some(id) = process.state().id
                {
                    id.kill();
                }
                if let Some(exit) = process.started() {
                    self.ended(container, process, exit);
                }
                let ms = begun.elapsed().as_millis();
                tracing::info!(exec_id = process.exec_id, pid, ms, "process executed");
                Ok(pid)
            }
            Err(error) => {
                let mut state = process.state();
                state.held = crate::pod::stdio::Held::default();
                state.helper = None;
                drop(state);
                process.not_started();
                Err(error)
            }
        }
    }

    async fn execute(
        &self,
        container: &Container,
        process: &Process,
        init: crate::node::pid::ProcessId,
        origin: Option<SpanParent>,
    ) -> Result<tokio::sync::oneshot::Receiver<Exit>, TaskError> {
        let spec = process.spec.clone().ok_or_else(|| self.no_process(container, process))?;
        let opened = self.open_streams(container, process).await?;
        let job = Job::Exec(Box::new(Exec {
            id: container.id.clone(),
            exec_id: process.exec_id.clone(),
            bundle: container.bundle.clone(),
            folder: self.folder(&container.id),
            init,
            process: spec,
            streams: opened.streams.clone(),
            store: self.store(),
            options: container.options.clone(),
            origin,
        }));
        let made = self.make(container, process, opened, job).await.map_err(|source| TaskError::Exec {
            id: container.id.clone(),
            exec_id: process.exec_id.clone(),
            source,
        })?;
        Ok(made.exit)
    }

    /// Removes a process that has ended or was never started.
    pub(super) async fn delete_exec(&self, container: &Container, process: &Process) -> Result<(u32, Exit), TaskError> {
        let _turn = process.turn.lock().await;
        let phase = process.state().phase;
        if matches!(phase, Phase::Starting | Phase::Running) {
            let (id, exec_id) = (container.id.clone(), process.exec_id.clone());
            return Err(TaskError::ProcessState { action: "delete", id, exec_id, state: phase.word() });
        }
        if phase == Phase::Created {
            // Callers that wait for the process get this exit. It was never started, so no exit event is published.
            process.end(Exit::never_started());
        }
        container.others().remove(&process.exec_id);
        Ok((process.pid(), process.exit().unwrap_or_else(Exit::never_started)))
    }

    fn no_process(&self, container: &Container, process: &Process) -> TaskError {
        TaskError::NoProcess { id: container.id.clone(), exec_id: process.exec_id.clone() }
    }
}
