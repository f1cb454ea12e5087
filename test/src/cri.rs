//! A containerd as Kubernetes uses it: with its CRI plugin, its own CNI networks, and a registry on loopback.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use containerd_client::Client;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatus, ContainerStatusRequest,
    CreateContainerRequest, CreateContainerResponse, ImageSpec, LinuxPodSandboxConfig, ListPodSandboxRequest,
    PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusRequest, PullImageRequest, RemoveContainerRequest,
    RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
};
use oci_tar_builder::{Builder, Format};
use prost::Message as _;
use tonic::Status;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

use crate::image::files;
use crate::{Containerd, Series, eventually, home, leaks, process};
use encoded::Encoded;

mod encoded;

/// A runtime handler that containerd 2.1 treats like runc's shim: only from such a handler it requests the features.
pub const LIKE_RUNC: &str = "like-runc";

/// Time limit for a step.
const LIMIT: Duration = Duration::from_secs(60);
const PROGRAM_LIMIT: Duration = Duration::from_secs(60);

/// The containerd, its registry, and connections to both CRI services.
pub struct Cri {
    /// The daemon.
    pub daemon: Containerd,
    /// The CRI service for pods and containers.
    pub runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
    registry: Registry,
}

/// A registry that is empty at first; dropping it ends it.
struct Registry {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

/// A pod and its description.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Id of its sandbox.
    pub id: String,
    config: PodSandboxConfig,
}

impl Cri {
    /// Starts the daemon and the registry. `busybox` is the program of the pause container; `options` are the runtime's, in TOML.
    ///
    /// # Panics
    /// If a part does not start.
    pub async fn start(series: Series, busybox: &[u8], options: &str) -> Self {
        Self::start_with(series, busybox, |folder, plain, pause| with_cri(series, folder, plain, pause, options)).await
    }

    /// As [`Cri::start`], with a configuration of the caller's: of the daemon's folder, the configuration of a plain containerd, and the
    /// name of the pause image. The folder has `cni/` with a network.
    ///
    /// # Panics
    /// If a part does not start.
    pub async fn start_with(
        series: Series,
        busybox: &[u8],
        configure: impl FnOnce(&Path, &str, &str) -> String,
    ) -> Self {
        let registry = Registry::start();
        let pause = format!("localhost:{}/pause:1", registry.port);
        let config = |folder: &Path| {
            fs::create_dir(folder.join("cni")).expect("the folder is new");
            fs::write(folder.join("cni/10-net.conflist"), network(series, folder)).expect("the folder is ours");
            let path = folder.join("config.toml");
            let text = fs::read_to_string(&path).expect("it has been written");
            fs::write(path, configure(folder, &enabled(&text), &pause)).expect("the folder is ours");
        };
        let daemon = Containerd::start_on(series, config).await;
        let channel = Client::from_path(daemon.address()).await.expect("containerd serves").channel();
        let (runtime, images) = (RuntimeServiceClient::new(channel.clone()), ImageServiceClient::new(channel.clone()));
        let this = Self { daemon, runtime, images, channel, registry };
        let layer = files(&[("/bin/busybox", busybox, 0o755), ("/etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", 0o644)]);
        this.push("pause:1", Format::Image, |image| {
            image.os("linux").entrypoint(["/bin/busybox", "sleep", "1000000"]).layer(layer)
        });
        this
    }

    /// Packs an image and pushes it to the registry; returns its reference.
    ///
    /// # Panics
    /// If it cannot be packed or pushed.
    pub fn push(&self, name: &str, format: Format, describe: impl FnOnce(Builder) -> Builder) -> String {
        let reference = format!("localhost:{}/{name}", self.registry.port);
        let image = describe(Builder::new(format, reference.parse().expect("a plain name")));
        let image = image.build().expect("the image is well described");
        let tar = self.daemon.folder().join(format!("{}.tar", name.replace([':', '/'], "-")));
        image.write_file(&tar).expect("the folder is ours");
        let mut command = Command::new("skopeo");
        command.args(["copy", "--all", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]);
        command.arg(format!("oci-archive:{}", tar.display())).arg(format!("docker://{reference}"));
        command.env("TMPDIR", self.daemon.folder());
        process::run(&mut command, PROGRAM_LIMIT).success();
        reference
    }

    /// Pulls an image; returns the runtime's id of it.
    ///
    /// # Panics
    /// If it cannot be pulled.
    pub async fn pull(&self, reference: &str) -> String {
        self.try_pull(reference).await.unwrap_or_else(|status| panic!("cannot pull {reference}: {status}"))
    }

    /// Pulls an image; returns the runtime's id of it.
    ///
    /// # Errors
    /// The runtime's error.
    pub async fn try_pull(&self, reference: &str) -> Result<String, Status> {
        let image = Some(ImageSpec { image: reference.to_owned(), ..Default::default() });
        let pulled = self.images.clone().pull_image(PullImageRequest { image, ..Default::default() }).await?;
        Ok(pulled.into_inner().image_ref)
    }

    /// Describes a pod whose containers' logs are below the daemon's folder.
    pub fn pod_config(&self, name: &str) -> PodSandboxConfig {
        let metadata = PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "test".to_owned(),
            attempt: 0,
        };
        let linux = LinuxPodSandboxConfig {
            // The check for leaks finds cgroups by this name.
            cgroup_parent: format!("/{}-cri", self.daemon.id()),
            ..Default::default()
        };
        PodSandboxConfig {
            metadata: Some(metadata),
            log_directory: self.daemon.folder().join("logs").join(name).display().to_string(),
            linux: Some(linux),
            ..Default::default()
        }
    }

    /// Runs a pod with the handler `wasmtime`.
    ///
    /// # Panics
    /// If it cannot be run.
    pub async fn run_pod(&self, config: PodSandboxConfig) -> Pod {
        self.run_pod_with(config, "wasmtime").await
    }

    /// Runs a pod with another handler.
    ///
    /// # Panics
    /// If it cannot be run.
    pub async fn run_pod_with(&self, config: PodSandboxConfig, handler: &str) -> Pod {
        fs::create_dir_all(&config.log_directory).expect("the folder is ours");
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let answer = self.runtime.clone().run_pod_sandbox(request).await;
        Pod { id: answer.expect("the pod runs").into_inner().pod_sandbox_id, config }
    }

    /// Creates a container in a pod.
    ///
    /// # Errors
    /// The runtime's error.
    pub async fn create(&self, pod: &Pod, config: ContainerConfig) -> Result<String, Status> {
        self.create_with(pod, config, Vec::new()).await
    }

    /// Creates a container in a pod. `newer` has the encoded fields of its description that the messages of this harness do not have yet.
    ///
    /// # Errors
    /// The runtime's error.
    pub async fn create_with(&self, pod: &Pod, config: ContainerConfig, newer: Vec<u8>) -> Result<String, Status> {
        const CONFIG: u32 = 2;
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let mut request = request.encode_to_vec();
        // The reader merges two parts of one message.
        prost::encoding::bytes::encode(CONFIG, &newer, &mut request);
        let answer = self.call("CreateContainer", request).await?;
        Ok(CreateContainerResponse::decode(&*answer).expect("containerd answers in CRI's messages").container_id)
    }

    /// Makes a call that the messages of this harness need not have.
    ///
    /// # Errors
    /// The runtime's error.
    ///
    /// # Panics
    /// If there is no connection.
    pub async fn call(&self, method: &str, request: Vec<u8>) -> Result<Vec<u8>, Status> {
        let path = format!("/runtime.v1.RuntimeService/{method}");
        let path = PathAndQuery::try_from(path).expect("the name is plain");
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.expect("containerd serves");
        Ok(client.unary(tonic::Request::new(request), path, Encoded).await?.into_inner())
    }

    /// Starts a created container.
    ///
    /// # Errors
    /// The runtime's error.
    pub async fn start_container(&self, id: &str) -> Result<(), Status> {
        let request = StartContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().start_container(request).await.map(drop)
    }

    /// Creates and starts a container.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn run(&self, pod: &Pod, config: ContainerConfig) -> String {
        let id = self.create(pod, config).await.unwrap_or_else(|status| panic!("cannot create: {status}"));
        self.start_container(&id).await.unwrap_or_else(|status| panic!("cannot start {id}: {status}"));
        id
    }

    /// Returns the runtime's status of a container.
    ///
    /// # Panics
    /// If the runtime does not return one.
    pub async fn status(&self, id: &str) -> ContainerStatus {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.runtime.clone().container_status(request).await.expect("the container is known");
        answer.into_inner().status.expect("an answer has a status")
    }

    /// Returns the pid of a running container's init.
    ///
    /// # Panics
    /// If the runtime does not report it.
    pub async fn pid(&self, id: &str) -> u32 {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let answer = self.runtime.clone().container_status(request).await.expect("the container is known");
        pid_of(&answer.into_inner().info)
    }

    /// Returns the pid of a pod's pause container.
    ///
    /// # Panics
    /// If the runtime does not report it.
    pub async fn pod_pid(&self, id: &str) -> u32 {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let answer = self.runtime.clone().pod_sandbox_status(request).await.expect("the pod is known");
        pid_of(&answer.into_inner().info)
    }

    /// Waits until a container has ended.
    ///
    /// # Panics
    /// If it does not.
    pub async fn exited(&self, id: &str) -> ContainerStatus {
        eventually("the end of a container", LIMIT, async || {
            let status = self.status(id).await;
            if status.state() == ContainerState::ContainerExited { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }

    /// Stops a container, with a grace period in seconds.
    ///
    /// # Panics
    /// If it cannot be stopped.
    pub async fn stop(&self, id: &str, grace: i64) {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout: grace };
        self.runtime.clone().stop_container(request).await.expect("it can be stopped");
    }

    /// Removes a container.
    ///
    /// # Panics
    /// If it cannot be removed.
    pub async fn remove(&self, id: &str) {
        let request = RemoveContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().remove_container(request).await.expect("it can be removed");
    }

    /// Returns a container's log: stream and text of each line.
    ///
    /// # Panics
    /// If a line is not in the CRI format.
    pub fn log(&self, pod: &Pod, config: &ContainerConfig) -> Vec<(String, String)> {
        let path = Path::new(&pod.config.log_directory).join(&config.log_path);
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = |line: &str| {
            let mut parts = line.splitn(4, ' ');
            let (_time, stream, _tag) = (parts.next()?, parts.next()?, parts.next()?);
            Some((stream.to_owned(), parts.next()?.to_owned()))
        };
        text.lines().map(|text| line(text).unwrap_or_else(|| panic!("no CRI log line: {text:?}"))).collect()
    }

    /// Waits until a container's log contains a line.
    ///
    /// # Panics
    /// If it does not.
    pub async fn logs(&self, pod: &Pod, config: &ContainerConfig, stream: &str, wanted: &str) {
        let wanted = (stream.to_owned(), wanted.to_owned());
        eventually(&format!("{wanted:?} in a log"), LIMIT, async || {
            let log = self.log(pod, config);
            if log.contains(&wanted) { Ok(()) } else { Err(format!("{log:?}")) }
        })
        .await;
    }

    /// Stops and removes a pod.
    ///
    /// # Panics
    /// If the runtime refuses.
    pub async fn remove_pod(&self, id: &str) {
        let mut runtime = self.runtime.clone();
        let stop = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        runtime.stop_pod_sandbox(stop).await.expect("it can be stopped");
        let remove = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        runtime.remove_pod_sandbox(remove).await.expect("it can be removed");
    }

    /// Stops and removes every pod, and waits until there are no leaks.
    ///
    /// # Panics
    /// With the list of leaks.
    pub async fn finish(self) {
        let mut runtime = self.runtime.clone();
        let pods = runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.expect("the runtime answers");
        for pod in pods.into_inner().items {
            self.remove_pod(&pod.id).await;
        }
        eventually("nothing of any pod", LIMIT, async || {
            let mut left = leaks::of_daemon(&self.daemon);
            left.extend(self.networks().into_iter().map(|path| format!("address {}", path.display())));
            if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
        })
        .await;
    }

    /// Returns the files with the addresses of pods.
    fn networks(&self) -> Vec<PathBuf> {
        let folder = self.daemon.folder().join("ipam").join(self.daemon.id());
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("10."))).collect()
    }
}

impl Registry {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let config = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            folder.path().join("blobs").display()
        );
        fs::write(&config, text).expect("the folder is ours");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("docker-registry is installed; run `make setup`");
        let stderr = BufReader::new(process.stderr.take().expect("it is piped"));
        let mut said = String::new();
        let mut lines = stderr.lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let _ = writeln!(said, "{line}");
            let (_, rest) = line.split_once("listening on 127.0.0.1:")?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        });
        // The registry must not block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, port: port.unwrap_or_else(|| panic!("the registry does not listen: {said}")), _folder: folder }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads the pid in the additional part of a status.
fn pid_of(info: &HashMap<String, String>) -> u32 {
    let info: serde_json::Value = serde_json::from_str(&info["info"]).expect("a document");
    info["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("it runs")
}

/// Describes a container of an image, with a log of the same name.
pub fn container(name: &str, image: &str, args: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: image.to_owned(), ..Default::default() }),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        log_path: format!("{name}.log"),
        labels: HashMap::new(),
        ..Default::default()
    }
}

/// Describes a CNI network of this daemon: a pair of interfaces for each pod, addresses kept in the daemon's folder, mapped ports.
fn network(series: Series, folder: &Path) -> String {
    let name = folder.file_name().and_then(|name| name.to_str()).expect("the folder was named by us");
    // Daemons of all series run side by side, and several of one: a random /28 out of their own range.
    let (second, random) = (231 + series.place(), std::process::id() ^ crc(name));
    let subnet = format!("10.{second}.{}.{}/28", (random >> 4) & 0xff, (random & 0xf) << 4);
    serde_json::json!({
        "cniVersion": "0.4.0",
        "name": name,
        "plugins": [
            {
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "dataDir": folder.join("ipam"),
                    "ranges": [[{ "subnet": subnet }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
    .to_string()
}

fn crc(name: &str) -> u32 {
    name.bytes().fold(0, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

/// Takes the CRI plugin out of the disabled ones.
fn enabled(plain: &str) -> String {
    plain
        .replace(r#"    "io.containerd.grpc.v1.cri","#, "")
        .replace(r#""io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime","#, "")
}

/// Extends the configuration of a plain containerd by that of the CRI plugin.
fn with_cri(series: Series, folder: &Path, plain: &str, pause: &str, options: &str) -> String {
    let folder = folder.display();
    let (runtime, server, image) = if series.is_old() {
        ("io.containerd.grpc.v1.cri", String::new(), format!("sandbox_image = \"{pause}\""))
    } else {
        (
            "io.containerd.cri.v1.runtime",
            "\n[plugins.\"io.containerd.grpc.v1.cri\"]\nstream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"\n"
                .to_owned()
                + &format!("\n[plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = \"{pause}\"\n"),
            String::new(),
        )
    };
    let streams =
        if series.is_old() { "stream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"\n" } else { "" };
    format!(
        r#"{plain}{server}
[plugins."{runtime}"]
restrict_oom_score_adj = true
disable_apparmor = true
{streams}{image}

[plugins."{runtime}".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{folder}/cni"

[plugins."{runtime}".containerd]
default_runtime_name = "wasmtime"

[plugins."{runtime}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."{runtime}".containerd.runtimes.wasmtime]
runtime_type = "io.containerd.wasmtime.v1"
pod_annotations = ["prewasi.io/*"]

[plugins."{runtime}".containerd.runtimes.wasmtime.options]
{options}

[plugins."{runtime}".containerd.runtimes.{LIKE_RUNC}]
runtime_type = "io.containerd.runc.v2"
runtime_path = "{}"
"#,
        home::program("containerd-shim-wasmtime-v1").display()
    )
}
