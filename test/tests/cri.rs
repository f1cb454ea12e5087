//! The shim as Kubernetes drives it, through containerd's CRI plugin.

use std::fs;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use k8s_cri::v1::{
    AttachRequest, ContainerConfig, ContainerMetadata, ContainerState, ContainerStatsRequest, ExecRequest,
    ExecSyncRequest, LinuxContainerConfig, LinuxContainerResources, PodSandboxStatsRequest, PodSandboxStatusRequest,
    PortMapping, Protocol, UpdateContainerResourcesRequest,
};
use oci_tar_builder::{Format, Layer};
use prewasi_test::cri::{Cri, Pod, container};
use prewasi_test::guests::{self, DEMO, DEMO_COMPONENT, WEB};
use prewasi_test::image::{Program, files};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, eventually, http};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::busybox;

mod artifacts;
mod kubernetes;
mod nodes;
mod pods;
mod stops;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case!(wasm_image_runs_in_a_pod, needs Busybox Cni),
        case!(wasm_artifact_runs_in_a_pod, needs Busybox Cni),
        case!(native_side_car_runs_beside_wasm, needs Busybox Cni),
        case!(commands_are_executed_with_a_terminal, needs Busybox Cni),
        case!(running_program_is_attached_to, needs Busybox Cni),
        case!(usage_is_reported_and_limits_are_changed, needs Busybox Cni),
        case!(stop_leaves_a_grace_period, needs Busybox Cni),
        case!(crash_loop_keeps_each_attempt_apart, needs Busybox Cni),
        case!(probes_reach_the_side_car, needs Busybox Cni),
        case!(component_that_serves_is_probed_at_pod_and_node, needs Busybox Cni),
        case!(running_out_of_memory_is_the_reason, needs Busybox Cni),
        case!(options_of_the_runtime_class_reach_the_shim, needs Busybox Cni),
        case!(refused_container_says_why, needs Busybox Cni),
    ];
    cases.extend(artifacts::cases());
    cases.extend(kubernetes::cases());
    cases.extend(nodes::cases());
    cases.extend(pods::cases());
    cases.extend(stops::cases());
    cases
}

const LIMIT: Duration = Duration::from_secs(30);

async fn start(namespace: &Namespace, options: &str) -> Cri {
    Cri::start(namespace.daemon().series(), &busybox::bytes(), options).await
}

fn guest(name: &str) -> Layer {
    Program::new(fs::read(guests::path(name)).expect("the guest is there")).layer("demo.wasm")
}

/// Pushes and pulls the demo program.
async fn demo(cri: &Cri) -> String {
    let reference = cri.push("demo:v1", Format::Image, |image| image.layer(guest(DEMO)));
    cri.pull(&reference).await;
    reference
}

/// Pushes and pulls busybox.
async fn native(cri: &Cri) -> String {
    let layer = files(&[("/bin/busybox", &busybox::bytes(), 0o755), ("/www/index.html", b"well\n", 0o644)]);
    let reference =
        cri.push("busybox:v1", Format::Image, |image| image.os("linux").entrypoint(["/bin/busybox"]).layer(layer));
    cri.pull(&reference).await;
    reference
}

/// A wasm image is pulled from a registry, runs in a pod, logs, and ends with its own exit code; nothing is left of it.
async fn wasm_image_runs_in_a_pod(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let image = demo(&cri).await;
    let pod = cri.run_pod(cri.pod_config("wasm")).await;
    let echo = container("echo", &image, &["echo", "hello"]);
    let id = cri.run(&pod, echo.clone()).await;
    let status = cri.exited(&id).await;
    assert_eq!((status.exit_code, &*status.reason), (0, "Completed"));
    cri.logs(&pod, &echo, "stdout", "hello").await;
    let exit = container("exit", &image, &["exit", "7"]);
    let failed = cri.run(&pod, exit).await;
    let status = cri.exited(&failed).await;
    assert_eq!((status.exit_code, &*status.reason), (7, "Error"));
    let trap = container("trap", &image, &["trap"]);
    let trapped = cri.run(&pod, trap.clone()).await;
    assert_eq!(cri.exited(&trapped).await.exit_code, 134);
    let log = cri.log(&pod, &trap);
    assert!(log.iter().any(|(stream, text)| stream == "stderr" && text.contains("trapped")), "{log:?}");
    cri.remove(&id).await;
    cri.finish().await;
}

/// A CNCF wasm artifact, which has no entrypoint and which `ctr` cannot run, runs in a pod.
async fn wasm_artifact_runs_in_a_pod(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    for (name, program) in [("module", DEMO), ("component", DEMO_COMPONENT)] {
        let image = cri.push(&format!("{name}:v1"), Format::Artifact, |image| image.layer(guest(program)));
        cri.pull(&image).await;
        let pod = cri.run_pod(cri.pod_config(name)).await;
        let config =
            ContainerConfig { command: vec!["demo.wasm".to_owned()], ..container(name, &image, &["echo", name]) };
        let id = cri.run(&pod, config.clone()).await;
        assert_eq!(cri.exited(&id).await.exit_code, 0);
        cri.logs(&pod, &config, "stdout", name).await;
    }
    cri.finish().await;
}

async fn exec(cri: &Cri, id: &str, cmd: &[&str]) -> Result<(i32, String), tonic::Status> {
    let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
    let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 20 };
    let answer = cri.runtime.clone().exec_sync(request).await?.into_inner();
    Ok((answer.exit_code, String::from_utf8_lossy(&answer.stdout).into_owned()))
}

/// A pod holds a wasm container and a native one, both under one shim, which share its network. Commands are executed in either, as far as
/// possible.
async fn native_side_car_runs_beside_wasm(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let (wasm, busybox) = (demo(&cri).await, native(&cri).await);
    let pod = cri.run_pod(cri.pod_config("mixed")).await;
    let ticking = container("ticking", &wasm, &[]);
    let main = cri.run(&pod, ticking.clone()).await;
    let side = cri.run(&pod, container("side", &busybox, &["sleep", "600"])).await;
    cri.logs(&pod, &ticking, "stdout", "tick 1").await;
    let words = exec(&cri, &side, &["/bin/busybox", "echo", "from the side"]).await.expect("it runs");
    assert_eq!(words, (0, "from the side\n".to_owned()));
    assert_eq!(exec(&cri, &side, &["/bin/busybox", "sh", "-c", "exit 9"]).await.expect("it runs").0, 9);
    // Another run of the same program, in the running container.
    let words = exec(&cri, &main, &["demo.wasm", "echo", "from the wasm"]).await.expect("it runs");
    assert_eq!(words, (0, "from the wasm\n".to_owned()));
    let refused = exec(&cri, &main, &["/bin/sh"]).await.expect_err("there is no shell");
    assert!(refused.message().contains("/bin/sh"), "{refused}");
    let address = address(&cri, &pod).await;
    let (_, interfaces) = exec(&cri, &side, &["/bin/busybox", "ip", "addr"]).await.expect("it runs");
    assert!(interfaces.contains(&address), "{address} in {interfaces}");
    for id in [&main, &side] {
        cri.stop(id, 0).await;
        assert_eq!(cri.exited(id).await.exit_code, 137);
        cri.remove(id).await;
    }
    cri.finish().await;
}

async fn address(cri: &Cri, pod: &Pod) -> String {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
    let answer = cri.runtime.clone().pod_sandbox_status(request).await.expect("the pod is known").into_inner();
    answer.status.and_then(|status| status.network).expect("a pod has a network").ip
}

/// A connection to containerd's streaming server: the first byte of each message says which stream it is of.
struct Stream(tokio_tungstenite::WebSocketStream<TcpStream>);

const STDIN: u8 = 0;
const RESIZE: u8 = 4;

impl Stream {
    async fn connect(url: &str) -> Self {
        let url = url.replacen("http://", "ws://", 1);
        let mut request = url.as_str().into_client_request().expect("it is a URL");
        let host = request.uri().authority().expect("it has a host").to_string();
        let protocol = "v4.channel.k8s.io".parse().expect("it is plain");
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        let stream = TcpStream::connect(host).await.expect("the streaming server listens");
        Self(tokio_tungstenite::client_async(request, stream).await.expect("it speaks websocket").0)
    }

    async fn send(&mut self, channel: u8, text: &str) {
        let message = [&[channel], text.as_bytes()].concat();
        self.0.send(Message::Binary(message.into())).await.expect("it listens");
    }

    /// Reads until the stream ends or the text contains `wanted`; returns the text without the streams' numbers.
    async fn reads(&mut self, wanted: &str) -> String {
        let mut said = String::new();
        let read = async {
            while let Some(Ok(message)) = self.0.next().await {
                if let Message::Binary(bytes) = message {
                    said.push_str(&String::from_utf8_lossy(bytes.get(1..).unwrap_or_default()));
                }
                if said.contains(wanted) {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(LIMIT, read).await;
        assert!(said.contains(wanted), "{wanted:?} in {said:?}");
        said
    }
}

/// `kubectl exec -it` runs a shell with a terminal in the native side-car, over the streaming server. The terminal's size can change, and
/// the exit code is reported. A wasm container executes its own program in the same way.
async fn commands_are_executed_with_a_terminal(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let (wasm, busybox) = (demo(&cri).await, native(&cri).await);
    let pod = cri.run_pod(cri.pod_config("terminal")).await;
    let side = cri.run(&pod, container("side", &busybox, &["sleep", "600"])).await;
    let main = cri.run(&pod, container("ticking", &wasm, &[])).await;
    let open = async |id: &str, cmd: &[&str]| {
        let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
        let request =
            ExecRequest { container_id: id.to_owned(), cmd, tty: true, stdin: true, stdout: true, stderr: false };
        let answer = cri.runtime.clone().exec(request).await.expect("it can be executed");
        Stream::connect(&answer.into_inner().url).await
    };
    let mut shell = open(&side, &["/bin/busybox", "sh"]).await;
    shell.send(RESIZE, r#"{"Width":91,"Height":33}"#).await;
    shell.send(STDIN, "/bin/busybox stty size\n").await;
    shell.reads("33 91").await;
    shell.send(STDIN, "exit 5\n").await;
    shell.reads(r#"{"reason":"ExitCode","message":"5"}"#).await;
    let mut program = open(&main, &["demo.wasm", "echo", "seen"]).await;
    program.reads("seen\r\n").await;
    cri.finish().await;
}

/// `kubectl attach`: the client sees the output of a running program, and its input reaches the program.
async fn running_program_is_attached_to(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let (wasm, busybox) = (demo(&cri).await, native(&cri).await);
    let pod = cri.run_pod(cri.pod_config("attach")).await;
    let attach = async |id: &str, stdin: bool| {
        let request = AttachRequest { container_id: id.to_owned(), stdin, tty: false, stdout: true, stderr: !stdin };
        let answer = cri.runtime.clone().attach(request).await.expect("it can be attached to");
        Stream::connect(&answer.into_inner().url).await
    };
    let main = cri.run(&pod, container("ticking", &wasm, &[])).await;
    attach(&main, false).await.reads("tick ").await;
    let cat = ContainerConfig { stdin: true, ..container("cat", &busybox, &["cat"]) };
    let side = cri.run(&pod, cat).await;
    let mut stream = attach(&side, true).await;
    stream.send(STDIN, "typed\n").await;
    stream.reads("typed").await;
    cri.finish().await;
}

/// The usage of a container and of a pod is reported, and a running container's limits change.
async fn usage_is_reported_and_limits_are_changed(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let wasm = demo(&cri).await;
    let pod = cri.run_pod(cri.pod_config("usage")).await;
    let ticking = container("ticking", &wasm, &[]);
    let id = cri.run(&pod, ticking.clone()).await;
    cri.logs(&pod, &ticking, "stdout", "tick 1").await;
    let mut runtime = cri.runtime.clone();
    let request = ContainerStatsRequest { container_id: id.clone() };
    let stats = runtime.container_stats(request).await.expect("there are figures").into_inner().stats.expect("some");
    let memory = stats.memory.and_then(|memory| memory.working_set_bytes).expect("memory is counted").value;
    assert!((1 << 16..1 << 30).contains(&memory), "{memory} bytes");
    assert!(stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).expect("time is counted").value > 0);
    let request = PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
    let stats = runtime.pod_sandbox_stats(request).await.expect("there are figures").into_inner().stats.expect("some");
    assert_eq!(stats.linux.expect("it is Linux").containers.len(), 1);
    let linux = LinuxContainerResources { memory_limit_in_bytes: 123 << 20, cpu_shares: 512, ..Default::default() };
    let request =
        UpdateContainerResourcesRequest { container_id: id.clone(), linux: Some(linux), ..Default::default() };
    runtime.update_container_resources(request).await.expect("limits can be changed");
    let limit = fs::read_to_string(format!("/proc/{}/cgroup", pid(&cri, "ticking").await)).expect("it runs");
    let path = limit
        .lines()
        .find_map(|line| line.split_once(":memory:").or_else(|| line.split_once("0::")))
        .expect("a cgroup")
        .1;
    let files =
        [format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"), format!("/sys/fs/cgroup{path}/memory.max")];
    let limit = files.iter().find_map(|file| fs::read_to_string(file).ok()).expect("the cgroup has a limit");
    assert_eq!(limit.trim(), (123 << 20).to_string());
    cri.finish().await;
}

/// Returns the process of the pod's only task that runs this container's program, by containerd's own list.
async fn pid(cri: &Cri, name: &str) -> u32 {
    let list = k8s_cri::v1::ListContainersRequest::default();
    let containers = cri.runtime.clone().list_containers(list).await.expect("the runtime answers").into_inner();
    let wanted = containers
        .containers
        .into_iter()
        .find(|container| container.metadata.as_ref().is_some_and(|metadata| metadata.name == name));
    let id = wanted.expect("the container is listed").id;
    let client = containerd_client::Client::from_path(cri.daemon.address()).await.expect("containerd serves");
    let request = containerd_client::services::v1::GetRequest { container_id: id, ..Default::default() };
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("containerd-namespace", "k8s.io".parse().expect("it is plain"));
    client.tasks().get(request).await.expect("it runs").into_inner().process.expect("a task has a process").pid
}

/// A stop asks a container to end first, and kills it after its grace period. A wasm program ends at once, a shell that does not listen
/// does not.
async fn stop_leaves_a_grace_period(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let (wasm, busybox) = (demo(&cri).await, native(&cri).await);
    let pod = cri.run_pod(cri.pod_config("stop")).await;
    let polite = cri.run(&pod, container("polite", &wasm, &[])).await;
    let deaf = container("deaf", &busybox, &["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"]);
    let stubborn = cri.run(&pod, deaf.clone()).await;
    cri.logs(&pod, &deaf, "stdout", "deaf").await;
    cri.stop(&polite, 30).await;
    assert_eq!(cri.exited(&polite).await.exit_code, 143);
    let started = Instant::now();
    cri.stop(&stubborn, 1).await;
    assert!(started.elapsed() >= Duration::from_secs(1), "it was given {:?}", started.elapsed());
    assert_eq!(cri.exited(&stubborn).await.exit_code, 137);
    // Both may be stopped again.
    cri.stop(&polite, 1).await;
    cri.stop(&stubborn, 1).await;
    cri.finish().await;
}

/// A container that crashes is created anew, as the kubelet does: each attempt has its exit code and its log.
async fn crash_loop_keeps_each_attempt_apart(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let wasm = demo(&cri).await;
    let pod = cri.run_pod(cri.pod_config("loop")).await;
    let mut attempts = Vec::new();
    for attempt in 0..4 {
        let code = (10 + attempt).to_string();
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "crash".to_owned(), attempt }),
            log_path: format!("crash-{attempt}.log"),
            ..container("crash", &wasm, &if attempt == 3 { ["trap", ""] } else { ["exit", &code] })
        };
        let id = cri.run(&pod, config.clone()).await;
        let status = cri.exited(&id).await;
        assert_eq!(status.metadata.map(|metadata| metadata.attempt), Some(attempt));
        attempts.push((status.exit_code, !cri.log(&pod, &config).is_empty()));
        cri.remove(&id).await;
    }
    assert_eq!(attempts, [(10, false), (11, false), (12, false), (134, true)]);
    cri.finish().await;
}

/// Liveness probes: by a command in the side-car, and by HTTP, at the pod's address and at a port of the node.
async fn probes_reach_the_side_car(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let (wasm, busybox) = (demo(&cri).await, native(&cri).await);
    let (pod, port) = mapped_pod(&cri, "probe").await;
    cri.run(&pod, container("main", &wasm, &[])).await;
    let httpd = container("side", &busybox, &["httpd", "-f", "-p", "8080", "-h", "/www"]);
    let side = cri.run(&pod, httpd).await;
    let alive = ["/bin/busybox", "test", "-e", "/www/index.html"];
    assert_eq!(exec(&cri, &side, &alive).await.expect("it runs").0, 0);
    assert_eq!(exec(&cri, &side, &["/bin/busybox", "test", "-e", "/www/gone"]).await.expect("it runs").0, 1);
    let ip = assert_reachable(&cri, &pod, &side, port, "/index.html", "well\n").await;
    // The kubelet stops a container that does not answer any more.
    cri.stop(&side, 0).await;
    assert!(http::get(&format!("{ip}:8080"), "/index.html").is_err());
    cri.finish().await;
}

/// A component that answers HTTP is a pod's server. Probes reach it at the pod's address and at a port of the node. A stop ends it with
/// exit code 0.
async fn component_that_serves_is_probed_at_pod_and_node(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let (busybox, web) = (native(&cri).await, cri.push("web:v1", Format::Artifact, |image| image.layer(guest(WEB))));
    cri.pull(&web).await;
    let (pod, port) = mapped_pod(&cri, "web").await;
    let main = cri.run(&pod, container("main", &web, &["/web.wasm"])).await;
    let side = cri.run(&pod, container("side", &busybox, &["sleep", "1000"])).await;
    let ip = assert_reachable(&cri, &pod, &side, port, "/", "hello\n").await;
    assert_eq!(http::get(&format!("{ip}:8080"), "/trap").expect("an answer").0, 500);
    cri.stop(&main, 5).await;
    assert_eq!(cri.exited(&main).await.exit_code, 0);
    assert!(http::get(&format!("{ip}:8080"), "/").is_err());
    cri.finish().await;
}

/// Runs a pod whose port 8080 is a port of the node, too; returns that.
async fn mapped_pod(cri: &Cri, name: &str) -> (Pod, u16) {
    let port = http::free_port();
    let mapping = PortMapping {
        protocol: Protocol::Tcp.into(),
        container_port: 8080,
        host_port: port.into(),
        host_ip: String::new(),
    };
    let config = k8s_cri::v1::PodSandboxConfig { port_mappings: vec![mapping], ..cri.pod_config(name) };
    (cri.run_pod(config).await, port)
}

/// Asserts that a page is had at the pod's address, which is returned, and at the port of the node.
async fn assert_reachable(cri: &Cri, pod: &Pod, side: &str, port: u16, path: &str, page: &str) -> String {
    let ip = address(cri, pod).await;
    for address in [format!("{ip}:8080"), format!("{}:{port}", gateway(cri, side).await)] {
        eventually(&format!("an answer of {address}"), LIMIT, async || match http::get(&address, path)? {
            (200, body) if body == page => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
    ip
}

/// Returns the node's address as a pod sees it.
async fn gateway(cri: &Cri, side: &str) -> String {
    let (_, routes) = exec(cri, side, &["/bin/busybox", "ip", "route"]).await.expect("it runs");
    let gateway = routes.lines().find_map(|line| line.strip_prefix("default via ")?.split(' ').next());
    gateway.unwrap_or_else(|| panic!("no gateway in {routes}")).to_owned()
}

/// A container that needs more memory than it may have is killed, and the kubelet sees why.
async fn running_out_of_memory_is_the_reason(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let (wasm, busybox) = (demo(&cri).await, native(&cri).await);
    let pod = cri.run_pod(cri.pod_config("oom")).await;
    let limited = |config: ContainerConfig| {
        let resources = LinuxContainerResources {
            memory_limit_in_bytes: 32 << 20,
            memory_swap_limit_in_bytes: 32 << 20,
            ..Default::default()
        };
        ContainerConfig {
            linux: Some(LinuxContainerConfig { resources: Some(resources), ..Default::default() }),
            ..config
        }
    };
    let hungry = ["sh", "-c", "x=x; while :; do x=$x$x; done"];
    for config in [container("wasm", &wasm, &["allocate", "200"]), container("native", &busybox, &hungry)] {
        let id = cri.run(&pod, limited(config)).await;
        let status = cri.exited(&id).await;
        assert_eq!((status.exit_code, &*status.reason), (137, "OOMKilled"));
    }
    cri.finish().await;
}

/// The `options` table of a runtime class reaches the shim, and a pod's annotation counts over it.
async fn options_of_the_runtime_class_reach_the_shim(namespace: Namespace) {
    let cri = start(&namespace, "memory_limit = \"4MiB\"").await;
    let wasm = demo(&cri).await;
    let pod = cri.run_pod(cri.pod_config("options")).await;
    let id = cri.run(&pod, container("limited", &wasm, &["allocate", "16"])).await;
    assert_eq!(cri.exited(&id).await.exit_code, 1);
    let mut config = cri.pod_config("annotated");
    config.annotations = [("prewasi.io/memory_limit".to_owned(), "64MiB".to_owned())].into();
    let pod = cri.run_pod(config).await;
    let id = cri.run(&pod, container("annotated", &wasm, &["allocate", "16"])).await;
    assert_eq!(cri.exited(&id).await.exit_code, 0);
    cri.finish().await;
}

/// A container that cannot run is refused with the reason, image and layer named, as `kubectl describe` shows it.
async fn refused_container_says_why(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let image = cri.push("bad:v1", Format::Image, |image| image.layer(guest(guests::UNKNOWN_IMPORT)));
    cri.pull(&image).await;
    let pod = cri.run_pod(cri.pod_config("refused")).await;
    let id = cri.create(&pod, container("bad", &image, &[])).await.expect("containerd takes it");
    let status = cri.start_container(&id).await.expect_err("it cannot run");
    assert!(status.message().contains("cannot provide import") && status.message().contains(&image), "{status}");
    let status = cri.status(&id).await;
    assert_eq!(status.state(), ContainerState::ContainerExited);
    assert!(status.message.contains("cannot provide import"), "{status:?}");
    cri.finish().await;
}
