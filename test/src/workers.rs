//! Finds compile workers by their command line, because their environment is empty.

use std::fs;

use rustix::process::Pid;

use crate::Namespace;

/// A running compile worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    /// Its pid.
    pub pid: i32,
    /// The pid of its parent: a shim's helper, or `prewasi`.
    pub parent: i32,
}

impl Worker {
    /// Returns the pid of its parent.
    ///
    /// # Panics
    /// Never: the pid is valid.
    pub fn owner(self) -> Pid {
        Pid::from_raw(self.parent).expect("a process has an id")
    }

    /// Returns the value of a line in `/proc/PID/status`.
    ///
    /// # Errors
    /// The worker has ended, or there is no such line.
    pub fn status(self, name: &str) -> Result<String, String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).map_err(|error| error.to_string())?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|rest| rest.trim().to_owned()).ok_or_else(|| format!("no {name} in {status}"))
    }
}

/// Lists the workers whose parent's command line names the namespace.
pub fn of_namespace(namespace: &Namespace) -> Vec<Worker> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let workers = processes.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let words = command(pid)?;
        let is_worker = words.get(1).is_some_and(|word| word == "compile-worker");
        let parent = words.iter().position(|word| word == "--parent").and_then(|at| words.get(at + 1)?.parse().ok())?;
        is_worker.then_some(Worker { pid, parent })
    });
    let is_named =
        |worker: &Worker| command(worker.parent).is_some_and(|words| words.iter().any(|w| w == namespace.name()));
    workers.filter(is_named).collect()
}

fn command(pid: i32) -> Option<Vec<String>> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(command.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}
