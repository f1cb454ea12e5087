//! Pausing, changing limits, running out of memory, figures: the tasks of cgroups.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use containerd_client::events::{TaskExit, TaskOom, TaskPaused, TaskResumed};
use containerd_client::types::v1::Status;
use prewasi_test::figures::{self, Figures, Tolerance};
use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Imported, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case, eventually};
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

/// A call that needs a running or a paused container is refused in another state, and the error names the state.
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

/// A limit that cannot change, or not to that value, is refused by name, and nothing else changes.
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

/// Names the disk below the folder for temporary files, if it is one that the kernel can throttle.
fn disk() -> Option<(u32, u32)> {
    let device = fs::metadata(std::env::temp_dir()).expect("it is there").dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let number = format!("{major}:{minor}");
    let mut disks = fs::read_dir("/sys/block").expect("it is there").flatten();
    let is_disk =
        |disk: fs::DirEntry| fs::read_to_string(disk.path().join("dev")).is_ok_and(|dev| dev.trim() == number);
    disks.any(is_disk).then_some((major, minor))
}

/// Does work that counts wherever the kernel counts. It writes more files than memory holds and reads them again. It uses more time than
/// the quota, on two processors, and leaves a file that is not on the disk yet.
const WORK: &str = "
    busybox mkdir /copy && busybox cp /bin/busybox /copy/
    busybox dd if=/dev/zero of=/big bs=1M count=48 conv=fsync 2>/dev/null
    for again in 1 2; do busybox dd if=/big of=/dev/null bs=1M count=8 2>/dev/null; done
    /copy/busybox true
    for twice in 1 2; do (i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done) & done; wait
    busybox dd if=/dev/zero of=/small bs=64k count=32 2>/dev/null
    echo done; exec /copy/busybox sleep 600";

/// Runs the work and reads the counters, in a container that stands still.
async fn work(namespace: &Namespace, image: &Imported, runtime: &str) -> Figures {
    let throttle = disk().map(|(major, minor)| json!({ "major": major, "minor": minor, "rate": 1_000_000_000 }));
    let limited = json!({ "linux": { "resources": {
        "memory": { "limit": MEMORY / 2 },
        "pids": { "limit": 50 },
        "cpu": { "quota": 20_000, "period": 100_000 },
        // The kernel counts the writes of processes that it could throttle.
        "blockIO": { "throttleWriteBpsDevice": throttle.as_slice() },
    } } });
    let builder = namespace.container(&image.name).runtime(runtime).args(&["sh", "-c", WORK]);
    let mut container = builder.change(limited).create().await;
    container.start().await;
    container.prints("done\n").await;
    container.pause().await.expect("it can be paused");
    let metrics = container.metrics().await.expect("the shim answers");
    let figures = figures::read(metrics.first().expect("there is a container"));
    container.end().await;
    figures
}

/// Returns how far the figures of two runs of the work may differ. Figures outside the list must be equal.
fn tolerance(path: &str) -> Tolerance {
    // Reclaim chooses which pages go, so the number of pages to read again differs much.
    const CHANCE: Tolerance = Tolerance::Times(30);
    const COUNTED: Tolerance = Tolerance::Times(8);
    let field = path.strip_prefix("memory.total_").or_else(|| path.strip_prefix("memory."));
    match field.unwrap_or(path) {
        "pg_maj_fault" | "usage.failcnt" => CHANCE,
        // Each processor tells of some 64 pages at a time, and both containers have few.
        "active_anon" | "inactive_anon" => Tolerance::Within(1 << 20),
        // The disk is written to when the kernel likes.
        "writeback" => Tolerance::Within(4 << 20),
        "cache" | "rss" | "mapped_file" | "dirty" | "pg_pg_in" | "pg_pg_out" | "pg_fault" => COUNTED,
        "inactive_file" | "active_file" => COUNTED,
        "usage.usage" | "usage.max" | "swap.usage" | "swap.max" | "kernel.usage" | "kernel.max" => COUNTED,
        "cpu.usage.total" | "cpu.usage.user" | "cpu.usage.kernel" | "cpu.usage.per_cpu.sum" => COUNTED,
        path if path.starts_with("cpu.throttling.") => CHANCE,
        path if path.starts_with("blkio.") && path.ends_with(".value") => CHANCE,
        _ => Tolerance::Same,
    }
}

/// Every figure of a container under our shim matches that of the same container under runc's with cgroup v1. Limits and messages are
/// equal, and counters have a similar value. On a busy machine a counter may stay at zero in one of the two, so a counter has three attempts.
async fn figures_are_those_of_runc(namespace: Namespace) {
    let image = busybox::image(&namespace);
    // Files that are read for the first time are charged to the first container: that is neither of the two.
    work(&namespace, &image, "io.containerd.runc.v2").await;
    let mut differences = Vec::new();
    for _ in 0..3 {
        let own = work(&namespace, &image, "io.containerd.wasmtime.v1").await;
        let of_runc = work(&namespace, &image, "io.containerd.runc.v2").await;
        // The tolerances are those of v1; older shims of runc lack fields of v2, whose messages the shim's own tests compare.
        if of_runc.contains_key("memory.usage_limit") {
            assert!(own.contains_key("memory.usage_limit"), "{own:?}");
            return;
        }
        let fixed = figures::differences(&own, &of_runc, |path| match tolerance(path) {
            Tolerance::Same => Tolerance::Same,
            _ => Tolerance::Within(u64::MAX),
        });
        assert!(fixed.is_empty(), "{}", fixed.join("\n"));
        differences = figures::differences(&own, &of_runc, tolerance);
        if differences.is_empty() {
            return;
        }
    }
    panic!("{}", differences.join("\n"));
}
