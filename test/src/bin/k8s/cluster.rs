//! The cluster: etcd, the control plane, and this machine as the only node, with containerd, kubelet and kube-proxy. It runs in a cell, so
//! paths and ports are those of a node in production, and nothing has to be stopped or removed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use containerd_client::Client;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{ImageSpec, PullImageRequest};
use oci_tar_builder::Builder;
use prewasi_test::cri::Cri;
use prewasi_test::process::{self, Output};
use prewasi_test::{Containerd, eventually, home, http, leaks};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{SERIES, images};

/// Address of `kubectl proxy`, through which cases read objects.
pub(crate) const API: &str = "127.0.0.1:8001";
/// Address of the API server.
const SERVER: &str = "https://127.0.0.1:6443";
/// The node's own address; `test/k8s/cell` sets it.
const NODE_ADDRESS: &str = "10.230.0.1";
/// Name of the only node.
pub(crate) const NODE: &str = "node";

const LIMIT: Duration = Duration::from_secs(240);
/// Time between two polls of an object.
const INTERVAL: Duration = Duration::from_millis(100);

/// The running cluster.
pub(crate) struct Cluster {
    cri: Cri,
    folder: PathBuf,
    kubelet: Mutex<Child>,
    /// The others, which the cell ends.
    _programs: Vec<Child>,
}

impl Cluster {
    /// Starts everything, and waits until the node is ready.
    pub(crate) async fn start() -> Self {
        let folder = PathBuf::from("/run/k8s");
        fs::create_dir_all(folder.join("logs")).expect("/run is ours");
        write_keys(&folder);
        let mut programs = vec![etcd(&folder)];
        let cri = Cri::start_with(SERIES, &images::busybox(), containerd_config).await;
        make_cgroups(&cgroup(&cri.daemon));
        write_kubelet_config(&folder, &cri.daemon);
        images::push(&cri);
        programs.push(api_server(&folder));
        programs.push(spawn(&folder, "kubectl", &["proxy", "--port=8001", "--accept-hosts=.*"]));
        eventually("the API server", LIMIT, async || match pause_then(http::get(API, "/readyz")).await? {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        programs.push(spawn(
            &folder,
            "kube-controller-manager",
            &[
                "--kubeconfig=/run/k8s/config",
                "--leader-elect=false",
                "--service-account-private-key-file=/run/k8s/accounts.key",
                "--root-ca-file=/run/k8s/certificates/apiserver.crt",
            ],
        ));
        programs.push(spawn(&folder, "kube-scheduler", &["--kubeconfig=/run/k8s/config", "--leader-elect=false"]));
        programs.push(spawn(
            &folder,
            "kube-proxy",
            &["--kubeconfig=/run/k8s/config", "--hostname-override=node", "--conntrack-max-per-core=0"],
        ));
        let kubelet = Mutex::new(kubelet(&folder));
        let this = Self { cri, folder, kubelet, _programs: programs };
        this.node_is_ready().await;
        this.apply(&[], &images::readme("yaml")[0]);
        this
    }

    /// Returns the containerd.
    pub(crate) fn daemon(&self) -> &Containerd {
        &self.cri.daemon
    }

    /// Packs an image, and pushes it under a name that stands for the registry.
    pub(crate) fn push(&self, name: &str, describe: impl FnOnce(Builder) -> Builder) {
        images::push_as(&self.cri, name, describe);
    }

    /// Has the node pull an image, on a new connection: the harness's belongs to the thread that started the cluster.
    pub(crate) async fn pull(&self, name: &str) {
        let client = Client::from_path(self.daemon().address()).await.expect("containerd serves");
        let image = Some(ImageSpec { image: name.to_owned(), ..Default::default() });
        let request = PullImageRequest { image, ..Default::default() };
        ImageServiceClient::new(client.channel()).pull_image(request).await.expect("the registry has it");
    }

    /// Runs `kubectl`.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program("kubectl"));
        command.arg("--kubeconfig").arg(self.folder.join("config")).args(args);
        command.env("HOME", &self.folder).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        process::run(&mut command, LIMIT)
    }

    /// Applies documents, each of which is YAML or JSON.
    pub(crate) fn apply(&self, args: &[&str], documents: &str) {
        let file = tempfile::NamedTempFile::new().expect("/tmp is writable");
        fs::write(file.path(), documents).expect("the file is ours");
        let path = file.path().to_string_lossy();
        self.kubectl(&[&["apply", "-f", &*path], args].concat()).success();
    }

    /// Reads an object or a list by its path below the API server.
    pub(crate) fn get(&self, path: &str) -> Result<Value, String> {
        let (status, body) = http::get(API, path)?;
        if status != 200 {
            return Err(format!("{status}: {body}"));
        }
        serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))
    }

    /// Reads an object until `probe` finds a value in it.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        path: &str,
        mut probe: impl FnMut(&Value) -> Result<T, String>,
    ) -> T {
        self.polled(what, || self.get(path).and_then(|object| probe(&object))).await
    }

    /// Polls until `probe` yields a value.
    pub(crate) async fn polled<T>(&self, what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
        eventually(what, LIMIT, async || pause_then(probe()).await).await
    }

    /// Ends the kubelet with a signal, and starts it again after `meanwhile`.
    pub(crate) async fn restart_kubelet(&self, signal: Signal, meanwhile: impl AsyncFnOnce()) {
        {
            let mut kubelet = self.kubelet.lock().expect("no holder panics");
            kill_process(Pid::from_child(&kubelet), signal).expect("the kubelet is our child");
            kubelet.wait().expect("a child can be waited for");
        }
        meanwhile().await;
        *self.kubelet.lock().expect("no holder panics") = kubelet(&self.folder);
    }

    /// Waits until the node is ready.
    async fn node_is_ready(&self) {
        self.until("the node to be ready", &format!("/api/v1/nodes/{NODE}"), |node| {
            let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            let ready = conditions.find(|condition| condition["type"] == "Ready");
            match ready {
                Some(condition) if condition["status"] == "True" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Returns the end of a program's log.
    pub(crate) fn log(&self, name: &str, lines: usize) -> String {
        let text = fs::read(self.folder.join("logs").join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Waits until all pods are gone, ends the kubelet, and checks that no pod has left anything.
    pub(crate) async fn finish(mut self) {
        // A case that failed may have left this namespace of the shipped manifest.
        self.kubectl(&["delete", "namespace", "prewasi", "--ignore-not-found", "--timeout=110s"]);
        self.until("the end of all pods", "/api/v1/pods", |pods| {
            let pods: Vec<_> = pods["items"].as_array().into_iter().flatten().map(|pod| &pod["metadata"]).collect();
            let names: Vec<_> = pods.iter().map(|pod| format!("{}/{}", pod["namespace"], pod["name"])).collect();
            if names.is_empty() { Ok(()) } else { Err(names.join(", ")) }
        })
        .await;
        let kubelet = self.kubelet.get_mut().expect("no holder panics");
        kill_process(Pid::from_child(kubelet), Signal::TERM).expect("the kubelet is our child");
        kubelet.wait().expect("a child can be waited for");
        // The kubelet's own cgroups stay without it; those of pods below them would keep them.
        for class in ["kubepods/besteffort", "kubepods/burstable", "kubepods"] {
            let class = format!("{}/{class}", cgroup(&self.cri.daemon));
            // Beside version 1, runc makes cgroups in the hierarchy of version 2. There the kubelet removes none of its pods.
            for pod in fs::read_dir(Path::new("/sys/fs/cgroup/unified").join(&class)).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(pod.path());
            }
            leaks::remove_cgroups(&class);
        }
        // A containerd that was restarted has closed the harness's connection.
        let client = Client::from_path(self.cri.daemon.address()).await.expect("containerd serves");
        self.cri.runtime = RuntimeServiceClient::new(client.channel());
        self.cri.finish().await;
    }
}

/// Waits for as long as lies between two polls, if this one has failed.
async fn pause_then<T>(seen: Result<T, String>) -> Result<T, String> {
    if seen.is_err() {
        tokio::time::sleep(INTERVAL).await;
    }
    seen
}

fn program(name: &str) -> PathBuf {
    home::home().join("k8s/bin").join(name)
}

/// Starts a program with a log of its own.
fn spawn(folder: &Path, name: &str, args: &[&str]) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("logs").join(name));
    let log = log.expect("the folder is ours");
    let mut command = Command::new(program(name));
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor can be duplicated"))
        .stderr(log);
    command.env("KUBECONFIG", folder.join("config")).env("HOME", folder);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}; run `test/setup k8s`"))
}

/// Writes the key of service accounts, and the only user, who may do everything.
fn write_keys(folder: &Path) {
    let key = folder.join("accounts.key");
    process::run(Command::new("openssl").args(["genrsa", "-out"]).arg(key), LIMIT).success();
    fs::write(folder.join("tokens"), "admin,admin,1,system:masters\n").expect("the folder is ours");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "k8s", "cluster": { "server": SERVER, "insecure-skip-tls-verify": true } }],
        "users": [{ "name": "admin", "user": { "token": "admin" } }],
        "contexts": [{ "name": "k8s", "context": { "cluster": "k8s", "user": "admin" } }],
        "current-context": "k8s",
    });
    fs::write(folder.join("config"), config.to_string()).expect("the folder is ours");
}

fn etcd(folder: &Path) -> Child {
    spawn(folder, "etcd", &["--data-dir=/run/k8s/etcd", "--log-level=warn"])
}

fn api_server(folder: &Path) -> Child {
    spawn(
        folder,
        "kube-apiserver",
        &[
            "--etcd-servers=http://127.0.0.1:2379",
            "--bind-address=127.0.0.1",
            &format!("--advertise-address={NODE_ADDRESS}"),
            // No server knows the node's name.
            "--kubelet-preferred-address-types=InternalIP",
            "--cert-dir=/run/k8s/certificates",
            "--token-auth-file=/run/k8s/tokens",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.231.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=/run/k8s/accounts.key",
            "--service-account-signing-key-file=/run/k8s/accounts.key",
        ],
    )
}

fn kubelet(folder: &Path) -> Child {
    spawn(
        folder,
        "kubelet",
        &[
            "--config=/run/k8s/kubelet.json",
            "--kubeconfig=/run/k8s/config",
            &format!("--hostname-override={NODE}"),
            &format!("--node-ip={NODE_ADDRESS}"),
            "--container-runtime=remote",
            "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
            // The default is below /usr.
            "--volume-plugin-dir=/var/lib/kubelet/plugins",
        ],
    )
}

fn write_kubelet_config(folder: &Path, daemon: &Containerd) {
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        // Only this cell reaches it.
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", cgroup(daemon)),
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "maxPods": 150,
        "resolvConf": "",
        "syncFrequency": "10s",
        "serializeImagePulls": false,
        // The machine's own state must not matter: a disk that is nearly full.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": { "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
    });
    fs::write(folder.join("kubelet.json"), config.to_string()).expect("the folder is ours");
}

/// Returns the name of the cgroup of all pods. The check for leaks finds it.
fn cgroup(daemon: &Containerd) -> String {
    format!("{}-k8s", daemon.id())
}

/// Makes a cgroup in each hierarchy, as the kubelet wants it.
fn make_cgroups(name: &str) {
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let folder = hierarchy.path().join(name);
        if hierarchy.path().join("cgroup.procs").exists() {
            fs::create_dir(&folder).expect("root may make cgroups");
        }
        // A cpuset is empty at first.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read(hierarchy.path().join(file)) {
                fs::write(folder.join(file), value).expect("the cgroup is ours");
            }
        }
    }
}

/// Returns the configuration of a node's containerd, at the usual paths, with the table of the README.
fn containerd_config(folder: &Path, plain: &str, pause: &str) -> String {
    // The harness looks into its own folder.
    for (path, own) in [("/var/lib/containerd", "root"), ("/run/prewasi", "run")] {
        let own = folder.join(own);
        fs::create_dir_all(&own).expect("the folder is ours");
        fs::create_dir_all(path).expect("the cell's folders are ours");
        let (from, to) = if path == "/run/prewasi" { (&*own, Path::new(path)) } else { (Path::new(path), &*own) };
        process::run(Command::new("mount").arg("--bind").arg(from).arg(to), LIMIT).success();
    }
    let network = folder.join("cni/10-net.conflist");
    let mut text: Value =
        serde_json::from_slice(&fs::read(&network).expect("it has been written")).expect("it is JSON");
    text["plugins"][0]["ipam"]["ranges"] = json!([[{ "subnet": "10.232.0.0/16" }]]);
    fs::write(network, text.to_string()).expect("the folder is ours");
    let socket = "/run/containerd/containerd.sock";
    fs::create_dir_all("/run/containerd").expect("/run is ours");
    std::os::unix::fs::symlink(socket, folder.join("c.sock")).expect("the folder is ours");
    let folder = folder.display();
    let plain = plain
        .replace(&format!("root = \"{folder}/root\""), "root = \"/var/lib/containerd\"")
        .replace(&format!("address = \"{folder}/c.sock\""), &format!("address = \"{socket}\""));
    let registry = pause.split('/').next().expect("a word");
    let plugin = "io.containerd.grpc.v1.cri";
    let runtime = images::readme("toml").remove(0).replace("io.containerd.cri.v1.runtime", plugin);
    format!(
        r#"{plain}
[plugins."{plugin}"]
restrict_oom_score_adj = true
disable_apparmor = true
sandbox_image = "{pause}"

[plugins."{plugin}".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{folder}/cni"

[plugins."{plugin}".registry.mirrors."registry.example"]
endpoint = ["http://{registry}"]

[plugins."{plugin}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

{runtime}
  pod_annotations = ["prewasi.io/*"]
"#
    )
}
