//! Identifies processes by pid and start time, so that a reused pid is not mistaken for its former process.

use std::fs;
use std::io;
use std::time::SystemTime;

use nix::unistd::Pid;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process: its pid and its start time, in clock ticks since the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
}

/// The exit status of a process, and the time of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The exit code, or 128 and the number of the signal that ended it.
    pub(crate) status: u32,
    pub(crate) at: SystemTime,
}

impl Exit {
    /// Makes the exit of a process that was registered and never executed.
    pub(crate) fn never_started() -> Self {
        Self { status: 0, at: SystemTime::now() }
    }

    /// Makes the exit of a process that was killed without a reported status.
    pub(crate) fn killed() -> Self {
        Self { status: 128 + 9, at: SystemTime::now() }
    }
}

impl ProcessId {
    /// Identifies a running process.
    ///
    /// # Errors
    /// The system's error, in particular if there is no such process.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let stat = stat(pid)?;
        let start_time = start_time(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is malformed")))?;
        Ok(Self { pid, start_time })
    }

    /// Makes the id of a process that ended before it could be identified; no process ever matches it.
    pub(crate) fn ended(pid: i32) -> Self {
        Self { pid, start_time: u64::MAX }
    }

    /// Kills the process, unless its pid has been reused.
    pub(crate) fn kill(self) {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else { return };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        // The open descriptor refers to one process: if the start time matches now, it will match.
        if Self::of(self.pid).is_ok_and(|found| found == self) {
            // The process may end by itself first.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }

    /// Kills the process group that the process leads or has led.
    pub(crate) fn kill_group(self) {
        // A pid is not reused while a group has it: if another process has it, the group is gone.
        if Self::of(self.pid).is_ok_and(|found| found != self) {
            return;
        }
        // An empty group is no error.
        let _ = signal_child(-self.pid, nix::libc::SIGKILL);
    }

    /// Returns whether a process runs in the group that this process leads or has led.
    pub(crate) fn group_is_running(self) -> bool {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid| stat(pid).ok()).any(|stat| {
            let fields =
                stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>()).unwrap_or_default();
            let group = fields.get(2).and_then(|group| group.parse::<i32>().ok());
            group == Some(self.pid) && !matches!(fields.first(), Some(&("Z" | "X")))
        })
    }

    /// Returns whether the process runs; a zombie does not.
    pub(crate) fn is_running(self) -> bool {
        let Ok(stat) = stat(self.pid) else { return false };
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        start_time(&stat) == Some(self.start_time) && !matches!(state, Some('Z' | 'X'))
    }
}

/// Reads the kernel's description of a process. The name in it may be any bytes, also invalid text.
fn stat(pid: i32) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat"))?).into_owned())
}

/// Sends a signal to a child that has not been reaped yet, so its pid cannot have been reused.
///
/// # Errors
/// The system's error.
pub(crate) fn signal_child(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill has no memory effects.
    let result = unsafe { nix::libc::kill(Pid::from_raw(pid).as_raw(), signal) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Finds the 22nd field of `/proc/PID/stat`. The second field, the name, may contain spaces and parentheses.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name with parentheses and spaces does not shift the fields.
    #[test]
    fn names_do_not_confuse() {
        let fields: Vec<String> = (4..=22).map(|n| n.to_string()).collect();
        assert_eq!(start_time(&format!("1 (a) R 1 ) (b) S {}", fields.join(" "))), Some(22));
    }

    /// A process equals itself, and differs from a process with its pid but another start time.
    #[test]
    fn numbers_are_not_enough() {
        let own = ProcessId::of(std::process::id().cast_signed()).unwrap();
        assert!(own.is_running());
        let leader = ProcessId { pid: nix::unistd::getpgrp().as_raw(), start_time: 0 };
        assert!(leader.group_is_running());
        assert!(!ProcessId { pid: i32::MAX, start_time: 0 }.group_is_running());
        let earlier = ProcessId { start_time: own.start_time + 1, ..own };
        assert!(!earlier.is_running());
        // Without the check of the start time this would kill the test run.
        earlier.kill();
    }
    /// A process whose name is no valid text is found and ended.
    #[test]
    fn names_need_not_be_text() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt as _;
        use std::os::unix::process::ExitStatusExt as _;

        let folder = std::env::temp_dir().join(format!("prewasi-process-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join(OsStr::from_bytes(b"\xff) R 1\xfe"));
        fs::copy("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program).arg("600").spawn().unwrap();
        let id = ProcessId::of(child.id().cast_signed()).unwrap();
        assert!(id.is_running());
        id.kill();
        assert_eq!(child.wait().unwrap().signal(), Some(nix::libc::SIGKILL));
        fs::remove_dir_all(folder).unwrap();
    }
}
