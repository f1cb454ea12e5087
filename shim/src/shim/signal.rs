//! Signals.

use super::Shim;
use crate::cgroup::Cgroup;
use crate::container::{Container, Phase, Process};
use crate::error::TaskError;
use crate::process::signal_child;

/// The highest number of a signal.
const SIGNAL_MAX: u32 = 64;

impl Shim {
    /// Sends a signal to a process, or to all processes of a container.
    ///
    /// # Errors
    /// [`TaskError::Ended`] if there is nobody to take it.
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
            (_, Phase::Stopped) => Err(TaskError::Ended { id }),
            (None, _) => stop_making(&container, &process, signal),
            (Some(pid), _) => {
                if all && exec_id.is_empty() {
                    let cgroup = container.cgroup();
                    for pid in cgroup.iter().flat_map(Cgroup::pids).filter(|other| *other != pid) {
                        // One that has just ended needs no signal.
                        let _ = signal_child(pid, signal);
                    }
                }
                send(&container, pid, signal)?;
                if signal == nix::libc::SIGKILL
                    && exec_id.is_empty()
                    && let Some(cgroup) = container.cgroup()
                {
                    // What is frozen does not even die.
                    cgroup.thaw();
                }
                Ok(())
            }
        }
    }
}

fn send(container: &Container, pid: i32, signal: i32) -> Result<(), TaskError> {
    let id = container.id.clone();
    match signal_child(pid, signal) {
        Ok(()) => Ok(()),
        // It has ended and has not been waited for yet.
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Err(TaskError::Ended { id }),
        Err(source) => Err(TaskError::Io { action: "signal", id, source }),
    }
}

/// Signals a process that is not there yet: one that is on its way can only be killed.
fn stop_making(container: &Container, process: &Process, signal: i32) -> Result<(), TaskError> {
    let id = container.id.clone();
    let mut state = process.state();
    match (state.phase, state.helper) {
        (Phase::Creating, Some(helper)) if signal == nix::libc::SIGKILL => {
            state.unwanted = true;
            helper.kill_group();
            Ok(())
        }
        // Its helper makes a process in the midst of others, and is let come to its end.
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
