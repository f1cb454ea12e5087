//! Sends signals to processes.

use super::Pod;
use crate::api::error::TaskError;
use crate::node::cgroup::Cgroup;
use crate::node::pid::signal_child;
use crate::pod::container::{Container, Phase, Process};

/// The highest signal number.
const SIGNAL_MAX: u32 = 64;

impl Pod {
    /// Sends a signal to a process, or to all processes of a container.
    ///
    /// # Errors
    /// [`TaskError::Ended`], [`TaskError::ProcessEnded`] if the process has ended. With `all`, an ended container is no error.
    pub(crate) fn kill(&self, id: String, exec_id: &str, signal: u32, all: bool) -> Result<(), TaskError> {
        let container = self.container(&id)?;
        let process = container.process(exec_id)?;
        if signal > SIGNAL_MAX {
            return Err(TaskError::Signal { id, signal });
        }
        let signal = signal.cast_signed();
        let (pid, phase) = {
            let state = process.state();
            (state.id.map(|id| id.pid), state.phase)
        };
        match (pid, phase) {
            (_, Phase::Stopped) if all && exec_id.is_empty() => {
                signal_others(&container, None, signal);
                Ok(())
            }
            (_, Phase::Stopped) => Err(ended(id, exec_id)),
            (None, _) => stop_making(&container, &process, signal),
            (Some(pid), _) => {
                if all && exec_id.is_empty() {
                    signal_others(&container, Some(pid), signal);
                }
                match send(&container, exec_id, pid, signal) {
                    // The init process has just ended, and may not have been reaped.
                    Err(TaskError::Ended { .. }) if all => {}
                    sent => sent?,
                }
                if signal == nix::libc::SIGKILL
                    && exec_id.is_empty()
                    && let Some(cgroup) = container.cgroup()
                {
                    // A frozen process cannot even die.
                    cgroup.thaw();
                }
                Ok(())
            }
        }
    }
}

/// Signals all processes of a container except the first one.
fn signal_others(container: &Container, init: Option<i32>, signal: i32) {
    let cgroup = container.cgroup();
    for pid in cgroup.iter().flat_map(Cgroup::pids).filter(|other| Some(*other) != init) {
        // A process that has just ended needs no signal.
        let _ = signal_child(pid, signal);
    }
}

fn ended(id: String, exec_id: &str) -> TaskError {
    match exec_id {
        "" => TaskError::Ended { id },
        exec_id => TaskError::ProcessEnded { id, exec_id: exec_id.to_owned() },
    }
}

fn send(container: &Container, exec_id: &str, pid: i32, signal: i32) -> Result<(), TaskError> {
    let id = container.id.clone();
    match signal_child(pid, signal) {
        Ok(()) => Ok(()),
        // The process has ended and has not been reaped yet.
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Err(ended(id, exec_id)),
        Err(source) => Err(TaskError::Io { action: "signal", id, source }),
    }
}

/// Signals a process that does not exist yet: a process in creation can only be killed.
fn stop_making(container: &Container, process: &Process, signal: i32) -> Result<(), TaskError> {
    let id = container.id.clone();
    let mut state = process.state();
    match (state.phase, state.helper) {
        (Phase::Creating, Some(helper)) if signal == nix::libc::SIGKILL => {
            state.unwanted = true;
            helper.kill_group();
            Ok(())
        }
        // The exec helper works in the namespaces of a running container, and is allowed to finish.
        (Phase::Starting, _) if signal == nix::libc::SIGKILL => {
            state.unwanted = true;
            Ok(())
        }
        (Phase::Creating, _) => Err(TaskError::Ended { id }),
        (phase, _) => {
            let exec_id = process.exec_id.clone();
            Err(TaskError::ProcessState { action: "signal", id, exec_id, state: phase.word() })
        }
    }
}
