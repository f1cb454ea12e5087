//! The system calls of a guest's process after its guard is applied, recorded by `strace`.
//!
//! With [`VARIABLE`] in the environment of the tests, every container is traced; [`merged_as_asked`] makes a table of the traces.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Variable with the folder for the traces of all containers.
pub const VARIABLE: &str = "PREWASI_RECORD_CALLS";
/// Variable that makes the test program print the table of the traces in a folder, and do nothing else.
const MERGE: &str = "PREWASI_MERGE_CALLS";
/// The call that loads the guard: all later calls are the guest's.
const GUARD: &str = "seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, ";
const LIMIT: Duration = Duration::from_secs(20);

/// Calls by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calls {
    /// Calls that the kernel has, with any result.
    pub made: BTreeSet<String>,
    /// Calls with the result ENOSYS, as the guard returns it.
    pub unknown: BTreeSet<String>,
}

/// Traces a process and its descendants, until they have ended.
#[derive(Debug)]
pub struct Tracer {
    file: PathBuf,
    strace: Child,
}

impl Tracer {
    /// Starts the trace.
    ///
    /// # Panics
    /// If there is no `strace`, or it cannot trace the process.
    pub fn attach(pid: u32, file: &Path) -> Self {
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-e", "signal=none", "-o"])
            .arg(file)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace starts");
        let begun = Instant::now();
        while fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("TracerPid:\t0\n")) {
            assert!(begun.elapsed() < LIMIT, "strace does not trace {pid}");
            thread::sleep(Duration::from_millis(5));
        }
        Self { file: file.to_owned(), strace }
    }

    /// Waits for the end of all traced processes, and returns the guest's calls.
    ///
    /// # Panics
    /// If the guard was never loaded.
    pub fn finish(mut self) -> Calls {
        self.strace.wait().expect("strace is our child");
        let text = fs::read_to_string(&self.file).expect("strace has written");
        assert!(text.contains(GUARD), "the guard was not loaded: {text}");
        Calls::read(&text)
    }
}

impl Calls {
    /// Parses the output of `strace`: `PID name(arguments) = result`, in the order of time.
    fn read(text: &str) -> Self {
        let mut calls = Self::default();
        for line in text.lines().skip_while(|line| !line.contains(GUARD)).skip(1) {
            let Some((_, call)) = line.split_once(' ') else { continue };
            let call = call.trim_start();
            let resumed = call.strip_prefix("<... ").and_then(|call| call.split_once(" resumed>"));
            let (name, rest) = match (resumed, call.split_once('(')) {
                (Some(resumed), _) => resumed,
                (None, Some(begun)) => begun,
                // A line about the end of a process.
                (None, None) => continue,
            };
            // `???` is a call of a process that ended before strace could read its name.
            if rest.contains("<unfinished ...>") || name == "???" {
                continue;
            }
            let known = if rest.contains(" = -1 ENOSYS ") { &mut calls.unknown } else { &mut calls.made };
            known.insert(name.to_owned());
        }
        calls
    }

    fn add(&mut self, other: Self) {
        self.made.extend(other.made);
        self.unknown.extend(other.unknown);
    }
}

/// Parses the table: `engine: calls`, and `engine, unknown: calls`.
pub fn table(text: &str) -> BTreeMap<String, Calls> {
    let mut table: BTreeMap<String, Calls> = BTreeMap::new();
    for (head, names) in text.lines().filter_map(|line| line.split_once(": ")) {
        let names = names.split(' ').map(str::to_owned).collect();
        match head.strip_suffix(", unknown") {
            Some(engine) => table.entry(engine.to_owned()).or_default().unknown = names,
            None => table.entry(head.to_owned()).or_default().made = names,
        }
    }
    table
}

/// Prints the table of all traces in a folder, if the environment asks for it. Returns whether it does.
pub fn merged_as_asked() -> bool {
    let Some(folder) = std::env::var_os(MERGE) else { return false };
    let mut table: BTreeMap<String, Calls> = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the folder is there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let engine = name.split('.').next().unwrap_or_default();
        let text = String::from_utf8_lossy(&fs::read(entry.path()).expect("a trace")).into_owned();
        table.entry(engine.to_owned()).or_default().add(Calls::read(&text));
    }
    let mut text = String::new();
    for (engine, Calls { made, unknown }) in table {
        for (head, names) in [(engine.clone(), made), (format!("{engine}, unknown"), unknown)] {
            if !names.is_empty() {
                text.push_str(&format!("{head}: {}\n", names.into_iter().collect::<Vec<_>>().join(" ")));
            }
        }
    }
    std::io::stdout().write_all(text.as_bytes()).expect("somebody reads the table");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &BTreeSet<String>) -> Vec<&str> {
        names.iter().map(String::as_str).collect()
    }

    /// Calls of all threads are recorded from the guard on, once they have a result.
    #[test]
    fn traces_are_read() {
        let text = format!(
            "10  openat(AT_FDCWD, \"/x\", O_RDONLY) = 3\n10  {GUARD}{{len=2}}) = 0\n\
             10  clone3({{flags=0}}, 88) = -1 ENOSYS (Function not implemented)\n10  clone(child_stack=NULL) = 11\n\
             11  futex(0x1, FUTEX_WAIT, 0 <unfinished ...>\n10  write(1, \"a\", 1) = 1\n\
             11  <... futex resumed>) = 0\n11  exit_group(0 <unfinished ...>\n10  +++ exited with 0 +++\n"
        );
        let calls = Calls::read(&text);
        assert_eq!(names(&calls.made), ["clone", "futex", "write"]);
        assert_eq!(names(&calls.unknown), ["clone3"]);
    }
}
