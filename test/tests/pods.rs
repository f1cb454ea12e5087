//! Pods: several containers, wasm and native, under one shim.

use std::fs;
use std::time::Duration;

use containerd_client::types::v1::Status;
use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Imported, Program, files};
use prewasi_test::memory::regions_with;
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case, eventually, leaks};
use serde_json::{Value, json};

use crate::busybox;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(containers_of_a_pod_share_a_shim, needs Busybox),
        case!(script_is_a_side_car, needs Busybox),
        case!(containers_of_a_pod_end_one_by_one, needs Busybox),
        case!(shared_processes_end_with_their_container, needs Busybox),
        case!(containers_of_a_pod_know_nothing_of_each_other, needs Busybox),
    ]
}

/// The pause container of a pod.
async fn pause(namespace: &Namespace, native: &Imported) -> Container {
    let mark = json!({ "annotations": { "io.kubernetes.cri.container-type": "sandbox" } });
    let builder = namespace.container(&native.name).args(&["sleep", "600"]).change(mark);
    let mut container = builder.create().await;
    container.start().await;
    container
}

/// The settings that make a container one of the pod: the sandbox's id, and its namespaces.
fn of_pod(pause: &Container) -> Value {
    let path = |name: &str| format!("/proc/{}/ns/{name}", pause.pid());
    json!({
        "annotations": {
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": pause.id(),
        },
        "linux": { "namespaces": [
            { "type": "pid" }, { "type": "mount" },
            { "type": "network", "path": path("net") }, { "type": "ipc", "path": path("ipc") },
            { "type": "uts", "path": path("uts") },
        ]},
    })
}

fn wasm(namespace: &Namespace) -> Imported {
    let program = Program::guest(namespace, DEMO);
    image::import(namespace, "demo", |image| image.layer(program.layer("demo.wasm")))
}

/// A pause container, a wasm container and a native side-car have one shim, and one network.
async fn containers_of_a_pod_share_a_shim(namespace: Namespace) {
    let (native, wasm) = (busybox::image(&namespace), wasm(&namespace));
    let pause = pause(&namespace, &native).await;
    let mut program = namespace.container(&wasm.name).change(of_pod(&pause)).create().await;
    program.start().await;
    program.prints("tick 1\n").await;
    let side_car = namespace.container(&native.name).args(&["sleep", "600"]).change(of_pod(&pause));
    let mut side_car = side_car.create().await;
    side_car.start().await;
    assert_eq!(leaks::daemons(&namespace).len(), 1);
    let network = |container: &Container| fs::read_link(format!("/proc/{}/ns/net", container.pid())).expect("it runs");
    assert_eq!(network(&program), network(&pause));
    assert_eq!(network(&side_car), network(&pause));
    let exited = side_car.exec(&["/bin/busybox", "echo", "healthy"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "healthy\n"));
    for container in [program, side_car, pause] {
        container.end().await;
    }
}

/// A script is a side-car as well as a program is.
async fn script_is_a_side_car(namespace: Namespace) {
    let (native, wasm) = (busybox::image(&namespace), wasm(&namespace));
    let script = b"#!/bin/busybox sh\necho from a script: $1\nexit 4\n";
    let scripts = image::import(&namespace, "script", |image| {
        let layer = files(&[("/bin/busybox", &busybox::bytes(), 0o755), ("/run.sh", script, 0o755)]);
        image.os("linux").entrypoint(["/run.sh"]).layer(layer)
    });
    let pause = pause(&namespace, &native).await;
    let mut program = namespace.container(&wasm.name).change(of_pod(&pause)).create().await;
    program.start().await;
    let exited = namespace.container(&scripts.name).args(&["hello"]).change(of_pod(&pause)).run().await;
    assert_eq!((exited.code, &*exited.stdout), (4, "from a script: hello\n"));
    assert_eq!(leaks::daemons(&namespace).len(), 1);
    program.end().await;
    pause.end().await;
}

/// A container that ends and comes again, as one that crashes does, leaves the others of its pod alone.
async fn containers_of_a_pod_end_one_by_one(namespace: Namespace) {
    let (native, wasm) = (busybox::image(&namespace), wasm(&namespace));
    let pause = pause(&namespace, &native).await;
    let daemon = leaks::daemons(&namespace);
    for code in [3, 4] {
        let number = code.to_string();
        let crash = namespace.container(&wasm.name).args(&["exit", &number]).change(of_pod(&pause)).run().await;
        assert_eq!(crash.code, code);
        let crash = namespace.container(&native.name).args(&["sh", "-c", &format!("exit {code}")]);
        assert_eq!(crash.change(of_pod(&pause)).run().await.code, code);
        assert_eq!(pause.state().await.expect("it is there").status(), Status::Running);
        assert_eq!(leaks::daemons(&namespace), daemon);
    }
    pause.end().await;
}

/// In a pod with one pid namespace, processes that a container has started end with it.
async fn shared_processes_end_with_their_container(namespace: Namespace) {
    let native = busybox::image(&namespace);
    let pause = pause(&namespace, &native).await;
    let path = |name: &str| format!("/proc/{}/ns/{name}", pause.pid());
    let shared = json!({ "linux": { "namespaces": [
        { "type": "pid", "path": path("pid") }, { "type": "uts", "path": path("uts") }, { "type": "mount" },
    ]}});
    let script = "busybox sleep 601 & busybox sleep 602 & echo started; exit 0";
    let builder = namespace.container(&native.name).args(&["sh", "-c", script]).change(of_pod(&pause)).change(shared);
    let exited = builder.run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "started\n"));
    eventually("the end of what was started", Duration::from_secs(10), async || {
        let listed = pause.exec(&["/bin/busybox", "ps"]).run().await.stdout;
        if listed.contains("sleep 60") && listed.lines().filter(|line| line.contains("sleep 60")).count() > 1 {
            Err(listed)
        } else {
            Ok(())
        }
    })
    .await;
    pause.end().await;
}

/// Data that a pod's container, or its exec process, receives is nowhere in the memory of the pod's next container. That holds before its
/// start, while its program runs, and in its exec processes.
async fn containers_of_a_pod_know_nothing_of_each_other(namespace: Namespace) {
    let (native, wasm) = (busybox::image(&namespace), wasm(&namespace));
    let pause = pause(&namespace, &native).await;
    let marker = format!("known-to-one-{}", namespace.name());
    let variable = format!("SECRET={marker}-variable");
    let argument = format!("{marker}-argument");
    let first = namespace.container(&native.name).args(&["sh", "-c", "busybox sleep 600; :", &argument]);
    let mut first = first.env(&variable).change(of_pod(&pause)).create().await;
    first.start().await;
    let mut executed = first.exec(&["/bin/busybox", "sh", "-c", "busybox sleep 600; :", &argument]).create().await;
    executed.start().await;
    assert!(!regions_with(first.pid(), &marker).is_empty(), "the marker is found where it belongs");

    let mut second = namespace.container(&wasm.name).change(of_pod(&pause)).create().await;
    assert_eq!(regions_with(second.pid(), &marker), [""; 0]);
    second.start().await;
    second.prints("tick 1\n").await;
    assert_eq!(regions_with(second.pid(), &marker), [""; 0]);
    let mut other = second.exec(&["demo.wasm", "sleep", "600"]).create().await;
    other.start().await;
    other.prints("sleeping").await;
    assert_eq!(regions_with(other.pid(), &marker), [""; 0]);
    for zygote in leaks::zygotes(&namespace) {
        assert_eq!(regions_with(zygote, &marker), [""; 0]);
    }
    for container in [second, first, pause] {
        container.end().await;
    }
}
