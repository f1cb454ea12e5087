//! The start of a daemon without a containerd: `start` as containerd 2.3 and later call it, with a folder for sockets that other shims
//! share. Also the end of a daemon that receives no request.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{ConnectRequest, ShutdownRequest};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, Extension, LogLevel};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{EnumOrUnknown, Message as _, MessageField};
use containerd_shim_protos::shim_sync::TaskClient;
use libtest_mimic::Trial;
use prewasi_test::container::RuntimeOptions;
use prewasi_test::home;
use prewasi_test::trial::local_trials;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub(crate) fn trials() -> Vec<Trial> {
    local_trials![
        sockets_of_other_shims_are_left_alone,
        daemon_that_nobody_asks_for_ends,
        start_that_asks_containerd_has_made_nothing,
        answer_that_cannot_be_given_leaves_no_daemon,
        level_of_the_log_reaches_the_daemon,
    ]
}

const LIMIT: Duration = Duration::from_secs(20);
/// How long a daemon goes on that nobody asks for, at most.
const ABANDONED_LIMIT: Duration = Duration::from_secs(60);

/// The arguments and the folder of a call of `start`.
struct Node {
    folder: TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("pw").tempdir_in("/tmp").expect("/tmp is writable");
        fs::create_dir(folder.path().join("bundle")).expect("the folder is ours");
        fs::write(folder.path().join("bundle/config.json"), "{}").expect("the folder is ours");
        let environment = vec![("PREWASI_RUNTIME_DIR", folder.path().join("run").display().to_string())];
        Self { folder, environment }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the parameters that containerd 2.3 sends.
    fn parameters(&self) -> Vec<u8> {
        self.parameters_with(LogLevel::LOG_LEVEL_INFO, None)
    }

    /// Says it at this level of its log, with the options of a runtime, as CRI packs them.
    fn parameters_with(&self, level: LogLevel, options: Option<&str>) -> Vec<u8> {
        let extension = options.map(|options| {
            let options = RuntimeOptions { config_body: options.into(), ..RuntimeOptions::default() };
            let value = prost::Message::encode_to_vec(&options);
            let value = Any { type_url: "runtimeoptions.v1.Options".to_owned(), value, ..Any::default() };
            Extension { value: MessageField::some(value), ..Extension::default() }
        });
        let params = BootstrapParams {
            log_level: EnumOrUnknown::new(level),
            containerd_version: "2.3.4".to_owned(),
            extensions: extension.into_iter().collect(),
            instance_id: "a".to_owned(),
            namespace: "n".to_owned(),
            containerd_ttrpc_address: self.path("nobody.ttrpc").display().to_string(),
            containerd_grpc_address: self.path("c.sock").display().to_string(),
            socket_dir: Some(self.path("s").display().to_string()),
            ..BootstrapParams::default()
        };
        params.write_to_bytes().expect("a message can be written")
    }

    /// Begins a `start`.
    fn begin(&self, input: &[u8], output: Stdio) -> Child {
        let mut command = Command::new(home::program("containerd-shim-wasmtime-v1"));
        command.args(["-namespace", "n", "-id", "a", "-address"]).arg(self.path("c.sock")).arg("start");
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).current_dir(self.path("bundle"));
        let mut child =
            command.stdin(Stdio::piped()).stdout(output).stderr(Stdio::piped()).spawn().expect("the shim was built");
        child.stdin.take().expect("it is piped").write_all(input).expect("it reads");
        child
    }

    /// Calls `start`, and returns the address that it answers.
    fn start(&self) -> String {
        self.start_with(&self.parameters())
    }

    fn start_with(&self, input: &[u8]) -> String {
        let output = self.begin(input, Stdio::piped()).wait_with_output().expect("it ends");
        assert!(output.status.success(), "{output:?}");
        BootstrapResult::parse_from_bytes(&output.stdout).expect("it answers in kind").address
    }

    /// Lists the daemons that have been started here, without their zygotes, which look like them and are their children.
    fn daemons(&self) -> Vec<Pid> {
        let mark = format!("PREWASI_RUNTIME_DIR={}", self.path("run").display()).into_bytes();
        let is_ours = |folder: &Path| {
            let environment = fs::read(folder.join("environ")).unwrap_or_default();
            let command = fs::read(folder.join("cmdline")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark) && command.ends_with(b"\0daemon\0")
        };
        let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let alike: Vec<Pid> = entries
            .filter(|entry| is_ours(&entry.path()))
            .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
            .collect();
        let parent = |id: &Pid| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", id.as_raw_nonzero())).ok()?;
            Pid::from_raw(stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?)
        };
        alike.iter().filter(|id| parent(id).is_none_or(|parent| !alike.contains(&parent))).copied().collect()
    }

    /// Lists the folder for sockets.
    fn sockets(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("s")).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Waits until there is no daemon; returns how long that took.
    fn is_left(&self, limit: Duration) -> Duration {
        let begun = Instant::now();
        while !self.daemons().is_empty() {
            assert!(begun.elapsed() < limit, "{:?} run after {limit:?}", self.daemons());
            std::thread::sleep(Duration::from_millis(50));
        }
        begun.elapsed()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for daemon in self.daemons() {
            // It may end by itself.
            let _ = kill_process(daemon, Signal::KILL);
        }
    }
}

fn client(address: &str) -> TaskClient {
    TaskClient::new(ttrpc::Client::connect(address).expect("the daemon listens"))
}

fn shut_down(address: &str) {
    let limit = ttrpc::context::with_duration(LIMIT);
    client(address).shutdown(limit, &ShutdownRequest::default()).expect("the daemon answers");
}

/// In a folder that all shims share, `start` and the daemon touch their own sockets alone. They connect to no socket of another shim, and
/// remove dead sockets of their own only. The folder keeps its mode, or is made as containerd makes it.
fn sockets_of_other_shims_are_left_alone() {
    let node = Node::new();
    let folder = node.path("s");
    fs::create_dir(&folder).expect("the folder is ours");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).expect("the folder is ours");
    let [listening, dead] = ["a", "d"].map(|digit| digit.repeat(64));
    let ours = format!("prewasi-{}", "0".repeat(32));
    let other = UnixListener::bind(folder.join(&listening)).expect("the place is free");
    other.set_nonblocking(true).expect("it is a socket");
    drop(UnixListener::bind(folder.join(&dead)).expect("the place is free"));
    drop(UnixListener::bind(folder.join(&ours)).expect("the place is free"));

    let address = node.start();
    let name =
        address.strip_prefix(&format!("unix://{}/", folder.display())).expect("it lies in the folder").to_owned();
    assert!(name.starts_with("prewasi-") && name != ours, "{name}");
    assert_eq!(node.sockets(), [listening.clone(), dead.clone(), name]);
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    assert_eq!((mode(&folder), mode(Path::new(address.trim_start_matches("unix://")))), (0o750, 0o600));
    assert_eq!(node.start(), address, "the daemon is found again");
    assert_eq!(node.daemons().len(), 1);

    shut_down(&address);
    node.is_left(LIMIT);
    assert_eq!(node.sockets(), [listening, dead]);
    let connected = other.accept().expect_err("nobody connects to another shim's socket");
    assert_eq!(connected.kind(), std::io::ErrorKind::WouldBlock);

    fs::remove_dir_all(&folder).expect("the folder is ours");
    let address = node.start();
    assert_eq!(mode(&folder), 0o700);
    shut_down(&address);
    node.is_left(LIMIT);
}

/// A daemon that receives no request for a container ends by itself, but leaves containerd enough time to ask. So does a daemon with a
/// connection but no request.
fn daemon_that_nobody_asks_for_ends() {
    let node = Node::new();
    let address = node.start();
    assert_eq!(node.daemons().len(), 1);
    // A containerd that goes away before it asks for a container does the same.
    let request = ConnectRequest { id: "a".to_owned(), ..ConnectRequest::default() };
    let limit = ttrpc::context::with_duration(LIMIT);
    client(&address).connect(limit, &request).expect_err("there is no container");
    let took = node.is_left(ABANDONED_LIMIT + Duration::from_secs(10));
    assert!(took > Duration::from_secs(20), "containerd has time to ask, not {took:?}");
    assert_eq!(node.sockets(), [""; 0]);
}

/// While `start` asks containerd for its protocol, there is no socket and no daemon yet: a kill at that time leaves nothing.
fn start_that_asks_containerd_has_made_nothing() {
    let node = Node::new();
    let containerd = UnixListener::bind(node.path("c.sock")).expect("the place is free");
    // As containerd 2.0 to 2.2 call it: only their version tells which answer they expect.
    let mut start = node.begin(b"", Stdio::piped());
    let (mut asked, _) = containerd.accept().expect("it asks");
    asked.read_exact(&mut [0; 4]).expect("it says something");
    assert_eq!(node.daemons(), []);
    assert!(!node.path("run/s").exists());
    start.kill().and_then(|()| start.wait()).expect("it is ours");
    assert_eq!(node.daemons(), []);
    assert!(!node.path("run/s").exists());
}

/// If nobody reads the answer there is no daemon afterwards, and no socket.
fn answer_that_cannot_be_given_leaves_no_daemon() {
    let node = Node::new();
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    drop(reader);
    let output = node.begin(&node.parameters(), writer.into()).wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), &*said),
        (Some(1), "error: cannot print the address: Broken pipe (os error 32)\n")
    );
    assert_eq!(node.daemons(), []);
    assert_eq!(node.sockets(), [""; 0]);
}

/// The `log_level` of a runtime class, a parameter of containerd 2.3 and later, sets the daemon's log level from its start. Without one,
/// containerd's own level counts, also one above `info`.
fn level_of_the_log_reaches_the_daemon() {
    let node = Node::new();
    let fifo = node.path("bundle/log");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("the folder is ours");
    let mut log = fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(&fifo)
        .expect("the fifo is there");
    for (level, options, is_told) in [
        (LogLevel::LOG_LEVEL_INFO, None, true),
        (LogLevel::LOG_LEVEL_INFO, Some("log_level = \"error\""), false),
        (LogLevel::LOG_LEVEL_INFO, Some("log_level = \"warn\""), false),
        (LogLevel::LOG_LEVEL_WARN, None, false),
        (LogLevel::LOG_LEVEL_ERROR, Some("network = \"none\""), false),
        (LogLevel::LOG_LEVEL_ERROR, Some("log_level = \"info\""), true),
        (LogLevel::LOG_LEVEL_DEBUG, Some("log_level = \"error\""), true),
    ] {
        let address = node.start_with(&node.parameters_with(level, options));
        shut_down(&address);
        node.is_left(LIMIT);
        let mut said = Vec::new();
        let end = log.read_to_end(&mut said).expect_err("the fifo is open for writing");
        assert_eq!(end.kind(), std::io::ErrorKind::WouldBlock);
        let said = String::from_utf8_lossy(&said);
        assert_eq!(said.contains("shim daemon started"), is_told, "{level:?} {options:?}: {said:?}");
    }
}
