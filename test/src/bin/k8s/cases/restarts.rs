//! Parts of the node that end and come back.

use std::time::Duration;

use prewasi_test::{eventually, leaks};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cases::record;
use crate::space::{Space, container_status, deployment, native, pod, restarts, text, wasm};
use crate::trials::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(pods_outlive_the_kubelet, alone),
        case!(pods_outlive_containerd, alone),
        case!(killed_shim_costs_one_restart, alone),
    ]
}

const LIMIT: Duration = Duration::from_secs(60);

/// Returns the ids of containers.
fn ids(pod: &Value, containers: &[&str]) -> Vec<String> {
    containers.iter().map(|name| text(container_status(pod, name), "/containerID").to_owned()).collect()
}

/// Asserts that a pod runs the containers that it ran before.
async fn assert_same(space: &Space<'_>, before: &Value, containers: &[&str]) {
    let after = space.ready(text(before, "/metadata/name")).await;
    assert_eq!(ids(&after, containers), ids(before, containers));
    assert!(containers.iter().all(|name| restarts(&after, name) == 0), "{}", after["status"]);
}

/// Asserts that no line of the ticking program is missing.
fn assert_ticks(space: &Space, pod: &str) {
    let log = space.log(pod, "wasm").expect("the kubelet answers");
    let ticks: Vec<String> = log.lines().map(str::to_owned).collect();
    let expected: Vec<String> = (1..=ticks.len()).map(|number| format!("tick {number}")).collect();
    assert_eq!(ticks, expected);
}

/// Starts a pod that stays, and one whose containers end after a while.
async fn start(space: &Space<'_>) -> Value {
    let shell = |name: &str, script: &str| native(name, script);
    space.apply(&[
        pod("stays", &[wasm("wasm", &[]), shell("native", "sleep 1000")]),
        pod("ends", &[shell("native", "sleep 8; exit 5"), wasm("wasm", &["sleep", "8"])]),
    ]);
    space.ready("ends").await;
    space.ready("stays").await
}

/// Asserts that the ends of containers during the absence were seen.
async fn assert_ends(space: &Space<'_>) {
    assert_eq!(space.ended("ends", "native").await, (5, "Error".to_owned()));
    assert_eq!(space.ended("ends", "wasm").await, (0, "Completed".to_owned()));
}

/// The kubelet is killed and comes back: pods run on, and it learns of those that ended meanwhile.
async fn pods_outlive_the_kubelet(space: &Space<'_>) {
    let before = start(space).await;
    let absence = async || tokio::time::sleep(Duration::from_secs(10)).await;
    space.cluster.restart_kubelet(Signal::KILL, absence).await;
    assert_ends(space).await;
    assert_same(space, &before, &["wasm", "native"]).await;
    assert_ticks(space, "stays");
}

/// containerd ends politely, and by a kill: pods run on, without a line of their logs lost, and their ends meanwhile are seen. Pods can be
/// started afterwards.
async fn pods_outlive_containerd(space: &Space<'_>) {
    let before = start(space).await;
    space.cluster.daemon().restart(Signal::TERM).await;
    space.cluster.daemon().restart_after(Signal::KILL, || std::thread::sleep(Duration::from_secs(8))).await;
    assert_ends(space).await;
    assert_same(space, &before, &["wasm", "native"]).await;
    assert_ticks(space, "stays");
    let words = space.kubectl(&["exec", "stays", "--container=wasm", "--", "/hello.wasm", "echo", "well"]);
    assert_eq!(words.stdout, "well\n");
    space.apply(&[pod("new", &[wasm("wasm", &["echo", "new"])])]);
    assert_eq!(space.ended("new", "wasm").await, (0, "Completed".to_owned()));
}

/// A shim that is killed takes its pod along, and no other: the kubelet starts the pod's containers again, and nothing is left of the old
/// ones.
async fn killed_shim_costs_one_restart(space: &Space<'_>) {
    space.apply(&[
        deployment("hit", 1, &[wasm("wasm", &[]), native("native", "sleep 1000")]),
        pod("other", &[wasm("wasm", &[])]),
    ]);
    let other = space.ready("other").await;
    let before = space.deployed("hit", 1).await.remove(0);
    let daemon = space.cluster.daemon();
    let sandbox = text(&record(space, &before, "wasm"), "/Spec/annotations/io.kubernetes.cri.sandbox-id").to_owned();
    let shims = leaks::daemons_of_pod(daemon, &sandbox);
    assert_eq!(shims.len(), 1);
    let pid = Pid::from_raw(shims[0].cast_signed()).expect("a process has an id");
    kill_process(pid, Signal::KILL).expect("it runs");
    let name = text(&before, "/metadata/name");
    space
        .until("another start", &format!("pods/{name}"), |pod| {
            let started = ["wasm", "native"].iter().all(|container| restarts(pod, container) > 0);
            if started { Ok(()) } else { Err(pod["status"].to_string()) }
        })
        .await;
    let after = space.ready(name).await;
    assert_eq!((restarts(&after, "wasm"), restarts(&after, "native")), (1, 1));
    let mut old = ids(&before, &["wasm", "native"]);
    old.push(sandbox);
    eventually("nothing of the old containers", LIMIT, async || {
        let left = |id: &String| leaks::of_container(daemon, id.trim_start_matches("containerd://"));
        let left: Vec<String> = old.iter().flat_map(left).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    })
    .await;
    assert_same(space, &other, &["wasm"]).await;
}
