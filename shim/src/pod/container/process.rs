//! One process of a container in the daemon: the init process, or an exec process.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libcontainer::oci_spec::runtime::Process as ProcessSpec;
use tokio::sync::watch;

use crate::node::pid::{Exit, ProcessId};
use crate::pod::stdio::{Console, Held, StdioPaths};

/// The phase in a process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A helper builds the process, with its container.
    Creating,
    /// The init process waits to be started; an exec process is registered and not made yet.
    Created,
    /// The init process is being started, or the exec process is being made.
    Starting,
    /// Its program runs.
    Running,
    /// The process has ended.
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
    /// The description of an exec process; the init process has it in the container's spec.
    pub(crate) spec: Option<ProcessSpec>,
    state: Mutex<State>,
    ended: watch::Sender<Option<Exit>>,
    /// Locked to create, start or delete the process.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// The changing part of a process.
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) id: Option<ProcessId>,
    /// The helper that makes the process.
    pub(crate) helper: Option<ProcessId>,
    /// The client has cancelled the process.
    pub(crate) unwanted: bool,
    /// The exit of a process that was still being started.
    early: Option<Exit>,
    /// The client has closed the input.
    input_over: bool,
    /// Columns and rows for the terminal.
    size: Option<(u16, u16)>,
    pub(crate) held: Held,
    pub(crate) console: Option<Console>,
}

impl Process {
    /// Makes the init process of a container that is about to be created.
    pub(crate) fn init(stdio: StdioPaths) -> Self {
        Self::new(String::new(), stdio, None, Phase::Creating)
    }

    /// Makes a registered exec process.
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

    /// Returns the changing part. The guard must not be held across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the pid; 0 if the process is not made yet.
    pub(crate) fn pid(&self) -> u32 {
        self.state().id.map_or(0, |id| id.pid.cast_unsigned())
    }

    /// Returns whether the process exists and has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        let state = self.state();
        state.id.is_some() && state.phase != Phase::Stopped
    }

    /// Returns the exit of the process, if it has ended.
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

    /// Waits until a terminal's last output is copied, after the process has ended.
    pub(crate) async fn drain(&self) {
        let drained = self.state().console.as_ref().map(Console::drain);
        if let Some(drained) = drained {
            drained.await;
        }
    }

    /// Records the exit of the process. Returns `None` if it is still being started: then [`Self::started`] returns the exit.
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

    /// Records that the program runs. Returns the exit if the process has ended already.
    pub(crate) fn started(&self) -> Option<Exit> {
        self.leave_starting(Phase::Running)
    }

    /// Records that the program could not be started. Returns the exit if the process has ended already.
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
    /// Records that the input is closed. While the process is being made its input stays held, so that it can open it.
    pub(crate) fn close_stdin(&mut self) {
        self.input_over = true;
        if !matches!(self.phase, Phase::Creating | Phase::Starting) || self.id.is_some() {
            self.let_input_end();
        }
    }

    /// Records that the process exists and has its streams.
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

    /// Sets the size of the terminal. If the terminal does not exist yet, its size is set later; an ended process needs none.
    ///
    /// # Errors
    /// The system's error.
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
        // Readers of the output see its end, and users of the terminal a hangup.
        self.held = Held::default();
        self.console = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An exit during the start is reported after the start.
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

    /// An exit at any other time is reported at once.
    #[test]
    fn ends_count_at_once() {
        let process = Process::init(StdioPaths::default());
        process.state().phase = Phase::Created;
        let exit = Exit::killed();
        assert_eq!(process.end(exit), Some(exit));
        assert_eq!(process.exit(), Some(exit));
    }
}
