//! One container as the daemon sees it: what it was made from, and where its process stands.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::cgroup::Cgroup;
use crate::process::{Exit, ProcessId};
use crate::stdio::{Held, StdioPaths};

/// Where a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A helper builds it.
    Creating,
    /// Its init process waits to be started.
    Created,
    /// Its init process is being told to go on.
    Starting,
    /// Its program runs.
    Running,
    /// Its init process has ended.
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

/// A container.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) stdio: StdioPaths,
    state: Mutex<State>,
    ended: watch::Sender<Option<Exit>>,
    /// Held by whoever creates, starts or deletes it.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// What changes in a container's life.
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) init: Option<ProcessId>,
    pub(crate) cgroup: Option<Cgroup>,
    /// The helper that builds it.
    pub(crate) helper: Option<ProcessId>,
    /// Whoever asked for it wants it no more.
    pub(crate) unwanted: bool,
    /// The end of a process that was still being started.
    early: Option<Exit>,
    pub(crate) held: Held,
}

impl Container {
    /// Makes a container that is about to be created.
    pub(crate) fn new(id: String, bundle: PathBuf, stdio: StdioPaths, held: Held) -> Self {
        let state = State {
            phase: Phase::Creating,
            init: None,
            cgroup: None,
            helper: None,
            unwanted: false,
            early: None,
            held,
        };
        let ended = watch::Sender::new(None);
        Self { id, bundle, stdio, state: Mutex::new(state), ended, turn: tokio::sync::Mutex::default() }
    }

    /// Gives access to what changes. Not to be held across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of the init process, 0 if there is none yet.
    pub(crate) fn pid(&self) -> u32 {
        self.state().init.map_or(0, |init| init.pid.cast_unsigned())
    }

    /// Returns how the init process ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.ended.borrow()
    }

    /// Waits for the end of the init process, or of the attempt to create it.
    pub(crate) async fn wait(&self) -> Exit {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|exit| *exit) {
            Ok(Some(exit)) => exit,
            // The sender lives as long as the container.
            Ok(None) | Err(_) => Exit::killed(),
        }
    }

    /// Notes the end of the init process. `None` if it is still being started: then [`Self::started`] returns it.
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
        let early = {
            let mut state = self.state();
            state.phase = Phase::Running;
            state.early.take()
        };
        early.and_then(|exit| self.end(exit))
    }

    /// Notes that the program could not be started. Returns the end of the init process if that has come already.
    pub(crate) fn not_started(&self) -> Option<Exit> {
        let early = {
            let mut state = self.state();
            state.phase = Phase::Created;
            state.early.take()
        };
        early.and_then(|exit| self.end(exit))
    }
}

impl State {
    fn stop(&mut self) {
        self.phase = Phase::Stopped;
        // Readers of the output see its end.
        self.held = Held::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Container {
        Container::new("a".into(), "/b".into(), StdioPaths::default(), Held::default())
    }

    /// An end that comes while the container is being started is told after the start.
    #[test]
    fn ends_come_after_starts() {
        let container = container();
        container.state().phase = Phase::Starting;
        let exit = Exit::killed();
        assert_eq!(container.end(exit), None);
        assert_eq!(container.exit(), None);
        assert_eq!(container.started(), Some(exit));
        assert_eq!(container.exit(), Some(exit));
        assert_eq!(container.state().phase, Phase::Stopped);
    }

    /// An end at any other time counts at once.
    #[test]
    fn ends_count_at_once() {
        let container = container();
        container.state().phase = Phase::Created;
        let exit = Exit::killed();
        assert_eq!(container.end(exit), Some(exit));
        assert_eq!(container.exit(), Some(exit));
    }
}
