//! A node for manual work: it has a copy of the disk, which is kept, and runs until it is stopped.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use prewasi_test::{Series, home};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::error::NodeError;
use crate::machine::{Machine, Place, disk, missing};
use crate::parts;

/// The port of its ssh.
const PORT: u16 = 2222;

/// Returns whether the cases shall run on this node, which then keeps running.
pub(crate) fn is_wanted() -> bool {
    env::var_os("PREWASI_NODE_KEEP").is_some_and(|value| !value.is_empty())
}

/// Boots the node unless it runs, and installs everything.
pub(crate) fn boot() -> Result<ExitCode, NodeError> {
    if let Some(missing) = missing() {
        return Err(missing);
    }
    let series =
        if env::var_os("CONTAINERD").is_some_and(|value| value == "2.1") { Series::V2_1 } else { Series::V1_7 };
    parts::install(&machine()?, series)?;
    eprintln!("node: it runs; `make node-ssh` opens a shell, `make node-stop` stops it");
    Ok(ExitCode::SUCCESS)
}

/// Returns the node, and boots it if it does not run.
pub(crate) fn machine() -> Result<Machine, NodeError> {
    let folder = folder();
    if pid().is_none() {
        let disk = disk()?;
        fs::create_dir_all(folder.join("parts")).map_err(NodeError::file(&folder))?;
        let root = folder.join("disk.img");
        // A disk of an earlier recipe differs from the tested node.
        let made_of = fs::read_to_string(folder.join("made-of")).unwrap_or_default();
        if made_of != disk.display().to_string() || !root.exists() {
            let mut copy = Command::new("cp");
            copy.arg("--sparse=always").arg(disk.join("disk.img")).arg(&root);
            check("copy the disk", &mut copy)?;
            fs::copy(disk.join("key"), folder.join("key")).map_err(NodeError::file(folder.join("key")))?;
            fs::write(folder.join("made-of"), disk.display().to_string()).map_err(NodeError::file(&folder))?;
        }
        let mut qemu = place().qemu(&disk, &root);
        qemu.arg("-daemonize").arg("-pidfile").arg(folder.join("qemu.pid"));
        check("run qemu", &mut qemu)?;
    }
    Machine::at(place())
}

/// Opens a shell there, or runs a command; returns only on failure.
pub(crate) fn ssh(command: &[String]) -> Result<ExitCode, NodeError> {
    pid().ok_or(NodeError::NoNode)?;
    let mut ssh = place().ssh();
    let source = ssh.arg("root@127.0.0.1").args(command).exec();
    Err(NodeError::Start { program: "ssh".to_owned(), source })
}

/// Stops the node.
pub(crate) fn stop() -> Result<ExitCode, NodeError> {
    let pid = pid().ok_or(NodeError::NoNode)?;
    // The connection breaks when the node obeys.
    let _ = place().ssh().args(["root@127.0.0.1", "systemctl poweroff"]).status();
    let start = Instant::now();
    while test_kill_process(pid).is_ok() {
        if start.elapsed() > Duration::from_secs(90) {
            kill_process(pid, Signal::TERM)
                .map_err(|error| NodeError::Failed { action: "end qemu", reason: error.to_string() })?;
            break;
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(ExitCode::SUCCESS)
}

fn folder() -> PathBuf {
    home::home().join("node-by-hand")
}

fn place() -> Place {
    Place { folder: folder(), key: folder().join("key"), port: PORT }
}

/// Returns the pid of the running node.
fn pid() -> Option<Pid> {
    let text = fs::read_to_string(folder().join("qemu.pid")).ok()?;
    let pid = text.trim().parse().ok()?;
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    // The pid may belong to another process now.
    if command.contains("qemu-system") { Pid::from_raw(pid) } else { None }
}

fn check(action: &'static str, command: &mut Command) -> Result<(), NodeError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|source| NodeError::Start { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(NodeError::Failed { action, reason: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}
