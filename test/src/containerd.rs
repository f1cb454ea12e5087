//! A private containerd: root, state and sockets in one folder, the workspace's shims first in its PATH.
//!
//! A second process, the reaper, waits until this process has stopped the daemon or died. Then it ends the remaining processes, unmounts,
//! and deletes the folder. So nothing is left even after a SIGKILL of the test run.

mod config;
mod series;

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use containerd_client::Client;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::eventually::eventually;
use crate::home;
use crate::journal::Journal;
use crate::process::{self, Output};

pub use series::Series;

/// How long a daemon may take to serve, or to end.
const LIMIT: Duration = Duration::from_secs(30);

/// Time limit for a program that works on a namespace; it may compile a big module.
pub(crate) const PROGRAM_LIMIT: Duration = Duration::from_secs(240);

const REAPER: &str = include_str!("containerd/reap.sh");

/// A running daemon. Dropping it ends it and everything that was started through it.
#[derive(Debug)]
pub struct Containerd {
    series: Series,
    folder: PathBuf,
    /// Further variables of its environment.
    variables: Vec<(String, String)>,
    daemon: Mutex<Child>,
    reaper: Child,
}

impl Containerd {
    /// Starts a daemon and waits until it serves.
    ///
    /// # Panics
    /// If it does not, with the end of its log.
    pub async fn start(series: Series) -> Self {
        Self::start_with(series, &[], |_| ()).await
    }

    /// Starts a daemon in a folder that `prepare` has filled, and waits until it serves.
    ///
    /// # Panics
    /// If it does not, with the end of its log.
    pub async fn start_on(series: Series, prepare: impl FnOnce(&Path)) -> Self {
        Self::start_with(series, &[], prepare).await
    }

    /// Starts a daemon with further environment variables, in a folder that `prepare` has filled.
    ///
    /// # Panics
    /// If it does not serve, with the end of its log.
    pub async fn start_with(series: Series, variables: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Self {
        // The path of a unix socket has at most 107 bytes, so the prefix is short. The reaper deletes the folder.
        let folder = TempDir::with_prefix_in("pw", "/tmp").expect("/tmp is writable").keep();
        fs::create_dir(folder.join("run")).expect("the folder is new");
        fs::write(folder.join("config.toml"), config::text(series, &folder)).expect("the folder is writable");
        fs::write(options(&folder), "").expect("the folder is writable");
        let reaper = Command::new("/bin/sh")
            .args(["-c", REAPER, "reap"])
            .arg(&folder)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C must end the tests, not the reaper.
            .process_group(0)
            .spawn()
            .expect("/bin/sh starts");
        prepare(&folder);
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let variables: Vec<_> = variables.iter().map(own).collect();
        let daemon = Mutex::new(spawn(series, &folder, &variables));
        let this = Self { series, folder, variables, daemon, reaper };
        this.serves().await;
        this
    }

    /// Ends the daemon with `signal` and starts it again on the same folder; its containers continue.
    ///
    /// # Panics
    /// If it does not end or does not serve again.
    pub async fn restart(&self, signal: Signal) {
        self.restart_after(signal, || ()).await;
    }

    /// Ends the daemon with `signal`, calls `meanwhile` while it is down, and starts it again on the same folder.
    ///
    /// # Panics
    /// If it does not end or does not serve again.
    pub async fn restart_after(&self, signal: Signal, meanwhile: impl FnOnce()) {
        self.signal(signal);
        eventually(&format!("the end of {}", self.series), LIMIT, async || {
            let mut daemon = self.daemon.lock().expect("no holder panics");
            match daemon.try_wait() {
                Ok(Some(_)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        meanwhile();
        *self.daemon.lock().expect("no holder panics") = spawn(self.series, &self.folder, &self.variables);
        self.serves().await;
    }

    /// Returns the release.
    pub fn series(&self) -> Series {
        self.series
    }

    /// Returns the daemon's own folder, which contains all its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns a short name that is unique among daemons: every namespace of this daemon begins with it.
    pub fn id(&self) -> &str {
        self.folder.file_name().and_then(|name| name.to_str()).expect("the folder was named by us")
    }

    /// Returns the path of the gRPC socket.
    pub fn address(&self) -> PathBuf {
        self.folder.join("c.sock")
    }

    /// Returns the runtime folder of this daemon's shims and programs.
    pub fn runtime_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Returns the path of the node's options for shims and programs; the file exists and is empty.
    pub fn options(&self) -> PathBuf {
        options(&self.folder)
    }

    /// Returns the path of a blob's file.
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        let (algorithm, hex) = digest.split_once(':').expect("a digest has a colon");
        self.folder.join("root/io.containerd.content.v1.content/blobs").join(algorithm).join(hex)
    }

    /// Returns the journal of compiles under this daemon.
    pub fn journal(&self) -> Journal {
        Journal::new(&self.runtime_dir())
    }

    /// Makes a command with the daemon's environment: its PATH, its runtime folder.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        set_environment(&mut command, self.series, &self.folder);
        command
    }

    /// Returns the current length of the log in bytes, for [`Self::log_since`].
    pub fn log_length(&self) -> usize {
        fs::metadata(log(&self.folder)).map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(usize::MAX))
    }

    /// Returns the lines of the log that shims have written about a container of a namespace.
    pub fn log_of(&self, namespace: &str, container: &str) -> Vec<String> {
        let text = fs::read(log(&self.folder)).unwrap_or_default();
        let field = format!(" container={container}");
        let is_of =
            |line: &&str| line.contains(namespace) && (line.ends_with(&field) || line.contains(&format!("{field} ")));
        String::from_utf8_lossy(&text).lines().filter(is_of).map(str::to_owned).collect()
    }

    /// Returns the last `lines` lines of the log after a position, without debug lines.
    pub fn log_since(&self, position: usize, lines: usize) -> String {
        let text = fs::read(log(&self.folder)).unwrap_or_default();
        let text = String::from_utf8_lossy(text.get(position..).unwrap_or_default()).into_owned();
        last(lines, text.lines().filter(|line| !line.contains(" level=debug ")))
    }

    /// Runs the daemon's own `ctr` on a namespace, and waits for its end.
    pub fn ctr(&self, namespace: &str, args: &[&str]) -> Output {
        let mut command = self.command(self.series.programs().join("ctr"));
        command.arg("--address").arg(self.address()).args(["--namespace", namespace]).args(args);
        // From 2.2 on it warns on machines with cgroup v1.
        command.env("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS", "1");
        process::run(&mut command, PROGRAM_LIMIT)
    }

    fn signal(&self, signal: Signal) {
        let daemon = self.daemon.lock().expect("no holder panics");
        let pid = Pid::from_raw(daemon.id().cast_signed()).expect("a process has an id");
        rustix::process::kill_process(pid, signal).expect("the daemon is our child");
    }

    async fn serves(&self) {
        eventually(&format!("{} at {}", self.series, self.address().display()), LIMIT, async || {
            let ended = self.daemon.lock().expect("no holder panics").try_wait().expect("the daemon is our child");
            assert!(ended.is_none(), "{} ended at once ({ended:?}):\n{}", self.series, self.log_since(0, 20));
            let client = Client::from_path(self.address()).await.map_err(|error| error.to_string())?;
            client.version().version(()).await.map_err(|error| error.to_string())
        })
        .await;
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // The end of its input tells the reaper to work; it kills the daemon too.
        drop(self.reaper.stdin.take());
        let daemon = self.daemon.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Both are children of this process, and a failed wait cannot be reported.
        let _ = daemon.wait();
        let _ = self.reaper.wait();
    }
}

fn spawn(series: Series, folder: &Path, variables: &[(String, String)]) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(log(folder)).expect("the folder is writable");
    let clone = |file: &File| file.try_clone().expect("a descriptor can be duplicated");
    let mut command = Command::new(series.programs().join("containerd"));
    command.arg("--config").arg(folder.join("config.toml")).stdin(Stdio::null()).stdout(clone(&log)).stderr(log);
    set_environment(&mut command, series, folder);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.process_group(0).spawn().unwrap_or_else(|error| panic!("cannot start {series}: {error}; run `make setup`"))
}

fn set_environment(command: &mut Command, series: Series, folder: &Path) {
    let path = [home::programs(), series.programs()].map(|path| path.to_string_lossy().into_owned());
    command.env("PATH", format!("{}:{}:/usr/sbin:/usr/bin:/sbin:/bin", path[0], path[1]));
    command.env("PREWASI_RUNTIME_DIR", folder.join("run")).env("PREWASI_CONFIG", options(folder));
}

fn options(folder: &Path) -> PathBuf {
    folder.join("prewasi.toml")
}

/// Returns the last lines of a text.
pub(crate) fn last<'a>(count: usize, lines: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = lines.collect();
    all[all.len().saturating_sub(count)..].join("\n")
}

fn log(folder: &Path) -> PathBuf {
    folder.join("containerd.log")
}
