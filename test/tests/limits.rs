//! Pausing, changing limits, running out of memory, figures: what goes through cgroups.

use std::fs;
use std::time::Duration;

use containerd_client::events::{TaskExit, TaskOom, TaskPaused, TaskResumed};
use containerd_client::types::Metric;
use containerd_client::types::v1::Status;
use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Imported, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case, eventually};
use prost::Message;
use rustix::process::Signal;
use serde_json::json;
use tonic::Code;

use crate::busybox;
use crate::running::ticking;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(wasm_container_is_paused_and_resumed),
        case!(native_container_is_paused_and_resumed, needs Busybox),
        case!(paused_container_is_killed),
        case!(calls_on_a_paused_container_are_refused, needs Busybox),
        case!(limits_of_a_wasm_container_change),
        case!(limits_of_a_native_container_change, needs Busybox),
        case!(limits_that_cannot_be_changed_are_named),
        case!(wasm_container_runs_out_of_memory),
        case!(native_container_runs_out_of_memory, needs Busybox),
        case!(figures_are_those_of_runc, needs Runc Busybox),
    ]
}

const LIMIT: Duration = Duration::from_secs(20);

async fn native(namespace: &Namespace) -> Container {
    let image = busybox::image(namespace);
    let script = "i=0; while :; do i=$((i+1)); echo tick $i; busybox sleep 0.2; done";
    let mut container = namespace.container(&image.name).args(&["sh", "-c", script]).create().await;
    container.start().await;
    container.prints("tick 1\n").await;
    container
}

/// Says whether the kernel has stopped a process, by the freezer.
fn is_frozen(pid: u32) -> bool {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let path = |line: &str| line.splitn(3, ':').nth(2).map(str::to_owned);
    match cgroups.lines().find(|line| line.contains(":freezer:")).and_then(path) {
        Some(path) => {
            let state = fs::read_to_string(format!("/sys/fs/cgroup/freezer{path}/freezer.state"));
            state.expect("it has a freezer").trim() == "FROZEN"
        }
        None => {
            let path = cgroups.lines().find(|line| line.starts_with("0::")).and_then(path).expect("it has a cgroup");
            let events = fs::read_to_string(format!("/sys/fs/cgroup{path}/cgroup.events"));
            events.expect("it has a cgroup").contains("frozen 1")
        }
    }
}

async fn assert_pauses(namespace: Namespace, container: Container) {
    let events = namespace.events().await;
    container.pause().await.expect("it can be paused");
    assert!(is_frozen(container.pid()));
    assert_eq!(container.state().await.expect("it is there").status(), Status::Paused);
    let paused: TaskPaused = events.next("/tasks/paused").await;
    assert_eq!(paused.container_id, container.id());
    container.resume().await.expect("it can be resumed");
    assert!(!is_frozen(container.pid()));
    assert_eq!(container.state().await.expect("it is there").status(), Status::Running);
    let resumed: TaskResumed = events.next("/tasks/resumed").await;
    assert_eq!(resumed.container_id, container.id());
    let before = container.stdout().lines().count();
    eventually("another tick", LIMIT, async || {
        if container.stdout().lines().count() > before { Ok(()) } else { Err(container.stdout()) }
    })
    .await;
    container.end().await;
}

/// A paused wasm container stands still and says so; resumed, it goes on.
async fn wasm_container_is_paused_and_resumed(namespace: Namespace) {
    let container = ticking(&namespace, DEMO).await;
    assert_pauses(namespace, container).await;
}

/// So does a native one.
async fn native_container_is_paused_and_resumed(namespace: Namespace) {
    let container = native(&namespace).await;
    assert_pauses(namespace, container).await;
}

/// SIGKILL ends a paused container; another signal waits until it is resumed.
async fn paused_container_is_killed(namespace: Namespace) {
    let container = ticking(&namespace, DEMO).await;
    container.pause().await.expect("it can be paused");
    container.end().await;

    let mut container = ticking(&namespace, DEMO).await;
    container.pause().await.expect("it can be paused");
    container.kill(Signal::TERM).await.expect("it is there");
    assert_eq!(container.state().await.expect("it is there").status(), Status::Paused);
    container.resume().await.expect("it can be resumed");
    assert_eq!(container.wait().await, 143);
    container.delete().await;
}

/// What needs a container that runs, or one that is paused, says which it is.
async fn calls_on_a_paused_container_are_refused(namespace: Namespace) {
    let container = native(&namespace).await;
    let refused = |status: tonic::Status, word: &str| {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains(&format!(": it is {word}")), "{status}");
    };
    refused(container.resume().await.expect_err("it runs"), "running");
    container.pause().await.expect("it can be paused");
    refused(container.pause().await.expect_err("it is paused"), "paused");
    refused(container.delete_task().await.expect_err("it is paused"), "paused");
    let mut process = container.exec(&["/bin/busybox", "true"]).create().await;
    refused(process.try_start().await.expect_err("it is paused"), "paused");
    container.resume().await.expect("it can be resumed");
    process.try_start().await.expect("a start that was refused may be tried again");
    assert_eq!(process.finish().await.code, 0);
    container.end().await;
}

/// Reads a limit of a container where the kernel has it: `legacy` with its controller on v1, `unified` on v2.
fn limit(pid: u32, (controller, legacy): (&str, &str), unified: &str) -> String {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let of = |line: &str| {
        let fields: Vec<&str> = line.splitn(3, ':').collect();
        fields[1].split(',').any(|name| name == controller).then(|| fields[2].to_owned())
    };
    let path = match cgroups.lines().find_map(of) {
        Some(path) => format!("/sys/fs/cgroup/{controller}{path}/{legacy}"),
        None => {
            let path = cgroups.lines().find_map(|line| line.strip_prefix("0::")).expect("it has a cgroup");
            format!("/sys/fs/cgroup{path}/{unified}")
        }
    };
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}")).trim().to_owned()
}

async fn assert_limits_change(container: Container) {
    let resources = json!({
        "memory": { "limit": 134_217_728 },
        "cpu": { "shares": 512, "quota": 30_000, "period": 60_000 },
        "pids": { "limit": 77 },
        // As the container has it: clients send everything.
        "devices": [{ "allow": false, "access": "rwm" }],
    });
    container.update(&resources).await.expect("its limits can be changed");
    let pid = container.pid();
    assert_eq!(limit(pid, ("memory", "memory.limit_in_bytes"), "memory.max"), "134217728");
    assert_eq!(limit(pid, ("pids", "pids.max"), "pids.max"), "77");
    let shares = limit(pid, ("cpu", "cpu.shares"), "cpu.weight");
    assert!(["512", "20"].contains(&&*shares), "{shares}");
    let quota = limit(pid, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert!(["30000", "30000 60000"].contains(&&*quota), "{quota}");
    container.end().await;
}

/// Memory, processor time and number of processes of a running wasm container are limited anew.
async fn limits_of_a_wasm_container_change(namespace: Namespace) {
    assert_limits_change(ticking(&namespace, DEMO).await).await;
}

/// And those of a native one.
async fn limits_of_a_native_container_change(namespace: Namespace) {
    assert_limits_change(native(&namespace).await).await;
}

/// What cannot be changed, or not to that value, is refused by name, and nothing else changes.
async fn limits_that_cannot_be_changed_are_named(namespace: Namespace) {
    let container = ticking(&namespace, DEMO).await;
    for (resources, word) in [
        (json!({ "devices": [{ "allow": true, "access": "rwm" }] }), "devices"),
        (json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 1 }] }), "huge pages"),
        (json!({ "memory": { "limit": 2_000_000, "swap": 1_000_000 } }), "swap"),
        (json!({ "memory": { "limit": "much" } }), "limits"),
        (json!({ "cpu": { "cpus": "0-9999" } }), "cpuset.cpus"),
    ] {
        let status = container.update(&resources).await.expect_err(word);
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(word), "{status}");
    }
    container.end().await;
}

const MEMORY: i64 = 64 << 20;

async fn assert_runs_out(namespace: Namespace, image: Imported, args: &[&str]) {
    let events = namespace.events().await;
    let limited = json!({ "linux": { "resources": { "memory": { "limit": MEMORY, "swap": MEMORY } } } });
    let mut container = namespace.container(&image.name).args(args).change(limited).create().await;
    container.start().await;
    assert_eq!(container.wait().await, 137);
    let exit: TaskExit = events.next("/tasks/exit").await;
    assert_eq!(exit.exit_status, 137);
    let oom: TaskOom = events.next("/tasks/oom").await;
    assert_eq!(oom.container_id, container.id());
    // Who marks a container as OOM-killed looks when it has ended.
    let topics = events.topics("/tasks/");
    let position = |topic: &str| topics.iter().position(|seen| seen == topic);
    assert!(position("/tasks/oom") < position("/tasks/exit"), "{topics:?}");
    container.delete().await;
}

/// A wasm container that takes more memory than it may is killed, and that is told before its end is.
async fn wasm_container_runs_out_of_memory(namespace: Namespace) {
    let wasm = wat::parse_str(
        r#"(module
            (memory (export "memory") 1)
            (func (export "_start") (local $page i32)
                (loop
                    (local.set $page (memory.grow (i32.const 16)))
                    (memory.fill (i32.mul (local.get $page) (i32.const 65536)) (i32.const 1) (i32.const 1048576))
                    (br 0))))"#,
    );
    let program = Program::new(wasm.expect("the text is valid"));
    let image = image::import(&namespace, "greedy", |image| image.layer(program.layer("greedy.wasm")));
    assert_runs_out(namespace, image, &[]).await;
}

/// So is a native one.
async fn native_container_runs_out_of_memory(namespace: Namespace) {
    let image = busybox::image(&namespace);
    assert_runs_out(namespace, image, &["tail", "/dev/zero"]).await;
}

/// A part of containerd's figures for cgroup v1.
#[derive(Clone, PartialEq, Message)]
struct Figures {
    #[prost(message, optional, tag = "2")]
    pids: Option<Pids>,
    #[prost(message, optional, tag = "3")]
    cpu: Option<Cpu>,
    #[prost(message, optional, tag = "4")]
    memory: Option<Memory>,
}

#[derive(Clone, PartialEq, Message)]
struct Pids {
    #[prost(uint64, tag = "1")]
    current: u64,
    #[prost(uint64, tag = "2")]
    limit: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Cpu {
    #[prost(message, optional, tag = "1")]
    usage: Option<Usage>,
}

#[derive(Clone, PartialEq, Message)]
struct Usage {
    #[prost(uint64, tag = "1")]
    total: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Memory {
    #[prost(message, optional, tag = "33")]
    usage: Option<Entry>,
    #[prost(uint64, tag = "16")]
    hierarchical_memory_limit: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(uint64, tag = "1")]
    limit: u64,
    #[prost(uint64, tag = "2")]
    usage: u64,
}

/// Figures of the same native container under our shim and under runc's have one type, the same limits and like sizes.
async fn figures_are_those_of_runc(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let limited = json!({ "linux": { "resources": { "memory": { "limit": MEMORY }, "pids": { "limit": 50 } } } });
    let mut figures = Vec::new();
    for runtime in ["io.containerd.wasmtime.v1", "io.containerd.runc.v2"] {
        // Enough work that it shows in every unit.
        let script = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; echo done; busybox sleep 600";
        let builder = namespace.container(&image.name).runtime(runtime).args(&["sh", "-c", script]);
        let mut container = builder.change(limited.clone()).create().await;
        container.start().await;
        container.prints("done\n").await;
        let metrics: Vec<Metric> = container.metrics().await.expect("the shim answers");
        let data = metrics.into_iter().next().and_then(|metric| metric.data).expect("there are figures");
        figures.push((data.type_url.clone(), data.value));
        container.end().await;
    }
    let [(own_type, own), (type_of_runc, of_runc)] = <[_; 2]>::try_from(figures).expect("two runs");
    assert_eq!(own_type, type_of_runc);
    if own_type != "io.containerd.cgroups.v1.Metrics" {
        return;
    }
    let decode = |bytes: Vec<u8>| Figures::decode(&*bytes).expect("figures");
    let (own, of_runc) = (decode(own), decode(of_runc));
    assert_eq!(own.pids, of_runc.pids);
    let memory = |figures: &Figures| {
        let memory = figures.memory.clone().unwrap_or_default();
        (memory.usage.unwrap_or_default(), memory.hierarchical_memory_limit)
    };
    let ((own_usage, own_limit), (usage, limit)) = (memory(&own), memory(&of_runc));
    assert_eq!((own_usage.limit, own_limit), (usage.limit, limit));
    let like = |own: u64, other: u64| own > 0 && other > 0 && own / 20 < other && other / 20 < own;
    assert!(like(own_usage.usage, usage.usage), "{own_usage:?} {usage:?}");
    let total = |figures: Figures| figures.cpu.and_then(|cpu| cpu.usage).unwrap_or_default().total;
    let (own, of_runc) = (total(own), total(of_runc));
    assert!(like(own, of_runc), "{own} {of_runc}");
}
