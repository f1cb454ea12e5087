//! One process of a container as the daemon sees it: the init process, or one that was executed later.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libcontainer::oci_spec::runtime::Process as ProcessSpec;
use tokio::sync::watch;

use crate::node::pid::{Exit, ProcessId};
use crate::pod::stdio::{Console, Held, StdioPaths};

/// Where a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A helper builds it, with its container.
    Creating,
    /// An init process waits to be started; another process is known and not there yet.
    Created,
    /// It is being told to go on, or being made.
    Starting,
    /// Its program runs.
    Running,
    /// It has ended.
    Stopped,
}

impl Phase {
    /// Returns the word for messages.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Creating => "being created",
            Self::Created => "created",
            Self::Starting => "being started",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// A process of a container.
pub(crate) struct Process {
    /// Empty for the init process.
    pub(crate) exec_id: String,
    pub(crate) stdio: StdioPaths,
    /// What is to be executed; the init process has it in the container's own spec.
    pub(crate) spec: Option<ProcessSpec>,
    state: Mutex<State>,
    ended: watch::Sender<Option<Exit>>,
    /// Held by whoever creates, starts or deletes it.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// What changes in a process's life.
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) id: Option<ProcessId>,
    /// The helper that makes it.
    pub(crate) helper: Option<ProcessId>,
    /// Whoever asked for it wants it no more.
    pub(crate) unwanted: bool,
    /// The end of a process that was still being started.
    early: Option<Exit>,
    /// The client has said that no more input will come.
    input_over: bool,
    /// Columns and rows that the terminal is to have.
    size: Option<(u16, u16)>,
    pub(crate) held: Held,
    pub(crate) console: Option<Console>,
}

impl Process {
    /// Makes the init process of a container that is about to be created.
    pub(crate) fn init(stdio: StdioPaths) -> Self {
        Self::new(String::new(), stdio, None, Phase::Creating)
    }

    /// Makes a process that may be started.
    pub(crate) fn other(exec_id: String, stdio: StdioPaths, spec: ProcessSpec) -> Self {
        Self::new(exec_id, stdio, Some(spec), Phase::Created)
    }

    fn new(exec_id: String, stdio: StdioPaths, spec: Option<ProcessSpec>, phase: Phase) -> Self {
        let state = State {
            phase,
            id: None,
            helper: None,
            unwanted: false,
            early: None,
            input_over: false,
            size: None,
            held: Held::default(),
            console: None,
        };
        let (state, ended) = (Mutex::new(state), watch::Sender::new(None));
        Self { exec_id, stdio, spec, state, ended, turn: tokio::sync::Mutex::default() }
    }

    /// Gives access to what changes. Not to be held across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of the process, 0 if there is none yet.
    pub(crate) fn pid(&self) -> u32 {
        self.state().id.map_or(0, |id| id.pid.cast_unsigned())
    }

    /// Says whether the process is there and has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        let state = self.state();
        state.id.is_some() && state.phase != Phase::Stopped
    }

    /// Returns how the process ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.ended.borrow()
    }

    /// Waits for the end of the process, or of the attempt to make it.
    pub(crate) async fn wait(&self) -> Exit {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|exit| *exit) {
            Ok(Some(exit)) => exit,
            // The sender lives as long as the process.
            Ok(None) | Err(_) => Exit::killed(),
        }
    }

    /// Waits until a terminal's last output is copied, once the process has ended.
    pub(crate) async fn drain(&self) {
        let drained = self.state().console.as_ref().map(Console::drain);
        if let Some(drained) = drained {
            drained.await;
        }
    }

    /// Notes the end of the process. `None` if it is still being started: then [`Self::started`] returns it.
    pub(crate) fn end(&self, exit: Exit) -> Option<Exit> {
        let mut state = self.state();
        if state.phase == Phase::Starting {
            state.early = Some(exit);
            return None;
        }
        state.stop();
        drop(state);
        self.ended.send_replace(Some(exit));
        Some(exit)
    }

    /// Notes that the program runs. Returns its end if that has come already.
    pub(crate) fn started(&self) -> Option<Exit> {
        self.leave_starting(Phase::Running)
    }

    /// Notes that the program could not be started. Returns the end of the process if that has come already.
    pub(crate) fn not_started(&self) -> Option<Exit> {
        self.leave_starting(Phase::Created)
    }

    fn leave_starting(&self, phase: Phase) -> Option<Exit> {
        let early = {
            let mut state = self.state();
            state.phase = phase;
            state.early.take()
        };
        early.and_then(|exit| self.end(exit))
    }
}

impl State {
    /// Notes that no more input will come. That of a process that is being made is still held, so that it can open it.
    pub(crate) fn close_stdin(&mut self) {
        self.input_over = true;
        if !matches!(self.phase, Phase::Creating | Phase::Starting) || self.id.is_some() {
            self.let_input_end();
        }
    }

    /// Notes that the process is there and has its streams.
    pub(crate) fn made(&mut self, id: ProcessId, console: Option<Console>) {
        self.id = Some(id);
        self.helper = None;
        self.console = console;
        if let Some((columns, rows)) = self.size
            && let Err(error) = self.resize(columns, rows)
        {
            tracing::warn!(%error, "cannot set the size of a terminal");
        }
        if self.input_over {
            self.let_input_end();
        }
    }

    /// Sets the size of the terminal. That of one that is not there yet is set when it is; one that has ended needs none.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) -> io::Result<()> {
        self.size = Some((columns, rows));
        self.console.as_ref().map_or(Ok(()), |console| console.resize(columns, rows))
    }

    fn let_input_end(&mut self) {
        self.held.close_stdin();
        if let Some(console) = &mut self.console {
            console.close_stdin();
        }
    }

    fn stop(&mut self) {
        self.phase = Phase::Stopped;
        // Readers of the output see its end, whoever has the terminal sees it hang up.
        self.held = Held::default();
        self.console = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An end that comes while the process is being started is told after the start.
    #[test]
    fn ends_come_after_starts() {
        let process = Process::init(StdioPaths::default());
        process.state().phase = Phase::Starting;
        let exit = Exit::killed();
        assert_eq!(process.end(exit), None);
        assert_eq!(process.exit(), None);
        assert_eq!(process.started(), Some(exit));
        assert_eq!(process.exit(), Some(exit));
        assert_eq!(process.state().phase, Phase::Stopped);
    }

    /// An end at any other time counts at once.
    #[test]
    fn ends_count_at_once() {
        let process = Process::init(StdioPaths::default());
        process.state().phase = Phase::Created;
        let exit = Exit::killed();
        assert_eq!(process.end(exit), Some(exit));
        assert_eq!(process.exit(), Some(exit));
    }
}
