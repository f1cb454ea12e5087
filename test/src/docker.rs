//! A Docker Engine of Debian's on a private containerd: own folders, own namespace, a unix socket, no rules in the machine's firewall.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oci_tar_builder::{Builder, Format};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::containerd::last;
use crate::process::{self, Output};
use crate::{Containerd, Series, eventually, home};

/// How long dockerd may take to serve, or to end.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a client may take; a compile may be in it.
const CLIENT_LIMIT: Duration = Duration::from_secs(90);

/// The runtime of wasm containers.
pub const RUNTIME: &str = "io.containerd.wasmtime.v1";

/// Where Docker keeps its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageStore {
    /// In containerd.
    Containerd,
    /// In a store of its own, of which containerd knows nothing.
    Own,
}

/// A running dockerd with its containerd. Dropping it ends both, and everything that was started through them.
pub struct Docker {
    /// The containerd.
    pub containerd: Containerd,
    engine: Engine,
    daemon: Child,
}

/// A release of Docker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    V26_1,
    V28_5,
}

impl Engine {
    /// Returns the release that goes with a containerd, as in Debian.
    fn of(series: Series) -> Self {
        if series.is_old() { Self::V26_1 } else { Self::V28_5 }
    }

    fn part(self) -> PathBuf {
        home::part(match self {
            Self::V26_1 => "docker-26.1",
            Self::V28_5 => "docker-28.5",
        })
    }
}

/// Returns the folder with the Docker that goes with a containerd.
pub(crate) fn part(series: Series) -> PathBuf {
    Engine::of(series).part()
}

impl Docker {
    /// Starts both daemons and waits until Docker serves.
    ///
    /// # Panics
    /// If it does not, with the end of its log.
    pub async fn start(series: Series, store: ImageStore) -> Self {
        Self::start_with(series, store, json!({})).await
    }

    /// Starts both daemons with further settings in `daemon.json`.
    ///
    /// # Panics
    /// If Docker does not serve, with the end of its log.
    pub async fn start_with(series: Series, store: ImageStore, settings: Value) -> Self {
        let engine = Engine::of(series);
        let containerd = Containerd::start_on(series, |folder| prepare(engine, store, folder, settings)).await;
        let daemon = spawn(&containerd, engine);
        let mut this = Self { containerd, engine, daemon };
        this.serves().await;
        this
    }

    /// Returns the folder in which everything lies.
    pub fn folder(&self) -> &Path {
        self.containerd.folder()
    }

    /// Makes a command that works with this Docker, with its programs and this workspace's in its PATH.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.containerd.command(program);
        with_programs(&mut command, self.engine);
        command.env("DOCKER_HOST", format!("unix://{}", socket(self.folder()).display()));
        command.env("DOCKER_CONFIG", self.folder().join("client")).env_remove("DOCKER_CONTEXT");
        command.env("HOME", self.folder());
        command
    }

    /// Runs `docker` to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Output {
        process::run(self.command(self.engine.part().join("bin/docker")).args(args), CLIENT_LIMIT)
    }

    /// Runs `docker`, which must succeed, and returns its standard output.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn says(&self, args: &[&str]) -> String {
        self.run(args).success().stdout
    }

    /// Packs an image and loads it as `name`.
    ///
    /// # Panics
    /// If it cannot be packed or loaded.
    pub fn load(&self, name: &str, describe: impl FnOnce(Builder) -> Builder) -> Output {
        let reference = format!("docker.io/library/{name}").parse().expect("a plain name");
        let image = describe(Builder::new(Format::Image, reference)).build().expect("the image is well described");
        let tar = self.folder().join("image.tar");
        image.write_file(&tar).expect("the folder is ours");
        self.run(&["load", "--input", &tar.to_string_lossy()])
    }

    /// Returns one value of the output of `docker inspect`, by a template.
    #[track_caller]
    pub fn inspect(&self, container: &str, template: &str) -> String {
        self.says(&["inspect", "--format", template, container]).trim_end().to_owned()
    }

    /// Ends dockerd, as a service manager does, and starts it again; containerd runs on.
    ///
    /// # Panics
    /// If it does not end, or does not serve again.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    /// Starts dockerd again, after a stop.
    ///
    /// # Panics
    /// If it does not serve.
    pub async fn start_again(&mut self) {
        self.daemon = spawn(&self.containerd, self.engine);
        self.serves().await;
    }

    /// Ends dockerd and returns the remains of containers.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn finish(mut self) -> Vec<String> {
        let containers = self.says(&["ps", "--all", "--quiet"]);
        let ids: Vec<&str> = containers.split_whitespace().collect();
        if !ids.is_empty() {
            self.says(&[&["rm", "--force"], &*ids].concat());
        }
        self.stop().await;
        // Docker unmounts its own only if it ends without containers.
        crate::leaks::of_daemon(&self.containerd)
    }

    /// Ends dockerd, as a service manager does; containerd runs on.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn stop(&mut self) {
        let pid = Pid::from_child(&self.daemon);
        rustix::process::kill_process(pid, Signal::TERM).expect("dockerd is our child");
        eventually("the end of dockerd", LIMIT, async || match self.daemon.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    async fn serves(&mut self) {
        let address = socket(self.folder());
        let folder = self.folder().to_owned();
        eventually(&format!("dockerd at {}", address.display()), LIMIT, async || {
            let ended = self.daemon.try_wait().expect("dockerd is our child");
            assert!(ended.is_none(), "dockerd ended at once ({ended:?}):\n{}", end_of_log(&folder));
            let output = self.run(&["version", "--format", "{{.Server.Version}}"]);
            if output.status.success() { Ok(()) } else { Err(output.to_string()) }
        })
        .await;
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // The reaper of containerd would find it too, but a child must be waited for.
        let _ = self.daemon.kill().and_then(|()| self.daemon.wait());
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("d.sock")
}

/// Writes the configuration of daemon and client.
fn prepare(engine: Engine, store: ImageStore, folder: &Path, settings: Value) {
    let id = folder.file_name().and_then(|name| name.to_str()).expect("the folder was named by us");
    let random = id.bytes().fold(std::process::id(), |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    // Networks of daemons side by side must not meet.
    let pool = format!("10.{}.{}.0/24", 241 + engine as u32, random & 0xff);
    let mut document = json!({
        "data-root": folder.join("docker"),
        "exec-root": folder.join("exec"),
        "pidfile": folder.join("d.pid"),
        "hosts": [format!("unix://{}", socket(folder).display())],
        "containerd": folder.join("c.sock"),
        // Remains of these are found by their names.
        "containerd-namespace": format!("{id}-moby"),
        "containerd-plugins-namespace": format!("{id}-plugins"),
        "cgroup-parent": format!("/{id}-docker"),
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "bridge": "none",
        // The machine's firewall stays as it is: ports are handed on by a program.
        "iptables": false,
        "ip6tables": false,
        "ip-forward": false,
        "userland-proxy-path": engine.part().join("bin/docker-proxy"),
        "init-path": engine.part().join("bin/docker-init"),
        "default-address-pools": [{ "base": pool, "size": 28 }],
        "features": { "containerd-snapshotter": store == ImageStore::Containerd },
    });
    crate::spec::merge(&mut document, &settings);
    fs::write(folder.join("daemon.json"), document.to_string()).expect("the folder is ours");
    fs::create_dir(folder.join("client")).expect("the folder is ours");
    let client = json!({ "cliPluginsExtraDirs": [engine.part().join("cli-plugins")] });
    fs::write(folder.join("client/config.json"), client.to_string()).expect("the folder is ours");
}

fn spawn(containerd: &Containerd, engine: Engine) -> Child {
    let folder = containerd.folder();
    let log = OpenOptions::new().create(true).append(true).open(folder.join("d.log")).expect("the folder is writable");
    let mut command = containerd.command(engine.part().join("bin/dockerd"));
    with_programs(&mut command, engine);
    command.arg("--config-file").arg(folder.join("daemon.json")).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a descriptor can be duplicated")).stderr(log).process_group(0);
    command.spawn().unwrap_or_else(|error| panic!("cannot start dockerd: {error}; run `make setup`"))
}

fn with_programs(command: &mut Command, engine: Engine) {
    let path = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, value)| value);
    let path = path.expect("commands of a containerd have a PATH").to_string_lossy().into_owned();
    command.env("PATH", format!("{}:{path}", engine.part().join("bin").display()));
}

fn end_of_log(folder: &Path) -> String {
    last(20, fs::read_to_string(folder.join("d.log")).unwrap_or_default().lines())
}
