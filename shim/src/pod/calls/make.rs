//! Makes processes: opens the streams, has a helper make the process, and waits for its end.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::{Pod, save};
use crate::api::error::TaskError;
use crate::api::events::Event;
use crate::failure::{Failure, Kind};
use crate::node::pid::{Exit, ProcessId, signal_child};
use crate::pod::container::{Container, Process};
use crate::pod::helper::NewProcess;
use crate::pod::job::Job;
use crate::pod::spec;
use crate::pod::stdio::{Console, ConsoleError, ConsoleSocket, Stdio, Streams};

/// Time limit for publishing the ends of killed processes, before the end of their container is published.
const OTHERS_LIMIT: Duration = Duration::from_secs(10);

/// The streams of a process that is being made.
pub(super) struct Opened {
    pub(super) streams: Streams,
    stdio: Stdio,
    socket: Option<ConsoleSocket>,
    /// The pipes to a logging program, kept open until the process has its own ends.
    _pipes: Vec<OwnedFd>,
}

impl Pod {
    /// Opens the streams of a process that is about to be made.
    pub(super) async fn open_streams(&self, container: &Container, process: &Process) -> Result<Opened, TaskError> {
        let id = || container.id.clone();
        let mut stdio = Stdio::new(&process.stdio).map_err(|source| TaskError::StdioUri { id: id(), source })?;
        let pipes = stdio.start_logger(&container.id, &self.namespace).await;
        let pipes = pipes.map_err(|source| TaskError::Logger { id: id(), source })?;
        let (streams, socket) = if process.stdio.terminal {
            stdio.try_files().map_err(|source| TaskError::Stdio { id: id(), source })?;
            let name = match &*process.exec_id {
                "" => "console.sock".to_owned(),
                exec_id => format!("console-{exec_id}.sock"),
            };
            let socket = ConsoleSocket::listen(&container.bundle, &name)
                .map_err(|source| TaskError::Console { id: id(), source })?;
            (Streams::Console(socket.path().to_owned()), Some(socket))
        } else {
            process.state().held = stdio.hold().map_err(|source| TaskError::Stdio { id: id(), source })?;
            (Streams::Each(stdio.clone()), None)
        };
        Ok(Opened { streams, stdio, socket, _pipes: pipes })
    }

    /// Has a helper make a process, and receives its terminal if it has one.
    pub(super) async fn make(
        &self,
        container: &Container,
        process: &Process,
        opened: Opened,
        job: Job,
    ) -> Result<NewProcess, Failure> {
        let started = |helper: ProcessId| {
            let unwanted = {
                let mut state = process.state();
                state.helper = Some(helper);
                state.unwanted
            };
            save(container);
            if unwanted {
                helper.kill_group();
            }
        };
        let made = self.helpers.make_process(job, started).await?;
        let console = opened.socket.map(|socket| {
            let uid = user_of(process, &container.bundle);
            socket.receive(uid).and_then(|master| Console::start(master, &opened.stdio))
        });
        let console = console.transpose().map_err(|error: ConsoleError| {
            made.id.kill();
            Failure::new(Kind::Internal, &error)
        })?;
        process.state().made(made.id, console);
        Ok(made)
    }

    /// Waits for the end of a process in a separate task, and publishes it.
    pub(super) fn watch(
        self: &Arc<Self>,
        container: &Arc<Container>,
        process: &Arc<Process>,
        exit: oneshot::Receiver<Exit>,
    ) {
        let (shim, container, process) = (self.clone(), container.clone(), process.clone());
        let span = container.span.clone();
        let ending = async move {
            // The reaper lives as long as the runtime.
            let exit = exit.await.unwrap_or_else(|_| Exit::killed());
            if process.exec_id.is_empty() {
                end_others(&container).await;
            }
            process.drain().await;
            if let Some(exit) = process.end(exit) {
                shim.ended(&container, &process, exit);
            }
        };
        tokio::spawn(ending.instrument(span));
    }

    /// Records and publishes the end of a process.
    pub(super) fn ended(&self, container: &Container, process: &Process, exit: Exit) {
        let pid = process.pid();
        self.tell_memory(container);
        if process.exec_id.is_empty() {
            container.set_paused(false);
            save(container);
            container.trace.end(Some(exit.status), None);
        }
        let exec_id = process.exec_id.clone();
        tracing::info!(exec_id, pid, status = exit.status, "process ended");
        self.events.publish(&container.id, Event::Exit { exec_id, pid, exit });
    }
}

/// Kills processes that outlive the init process, and waits until their ends are published: the container's end comes last.
async fn end_others(container: &Container) {
    let shares_pids = spec::load(&container.bundle).is_ok_and(|spec| !spec::has_own_pids(&spec));
    if let Some(cgroup) = container.cgroup().filter(|_| shares_pids) {
        for pid in cgroup.pids() {
            // A process that has just ended needs no signal.
            let _ = signal_child(pid, nix::libc::SIGKILL);
        }
        cgroup.thaw();
    }
    let others: Vec<Arc<Process>> = container.others().values().filter(|process| process.is_alive()).cloned().collect();
    let ends = async {
        for process in others {
            process.wait().await;
        }
    };
    if tokio::time::timeout(OTHERS_LIMIT, ends).await.is_err() {
        tracing::warn!("processes outlive the first process of their container");
    }
}

/// Returns the user of a process, who owns its terminal.
fn user_of(process: &Process, bundle: &Path) -> u32 {
    let Ok(mut spec) = spec::load(bundle) else { return 0 };
    if let Some(process) = &process.spec {
        spec.set_process(Some(process.clone()));
    }
    spec::user_on_node(&spec).unwrap_or_default()
}
