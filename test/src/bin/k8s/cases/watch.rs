//! The shipped DaemonSet, which compiles images before a container asks.

use oci_tar_builder::{Layer, media_type};
use prewasi_test::image::Program;
use prewasi_test::{guests, http, image};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::images;
use crate::space::{Space, deployment, is_ready, items, text, wasm, with};
use crate::trials::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    vec![case!(daemon_set_compiles_before_the_first_pod, alone)]
}

/// Pushes an image with a program that no other case has; returns its name and the program's digest.
fn push(space: &Space, tag: &str) -> (String, String) {
    let wasm = std::fs::read(guests::path(guests::DEMO)).expect("the guest is there");
    let program = Program::new(image::marked(&wasm, tag));
    let name = format!("registry.example/watched:{tag}");
    let layer = Layer::from_bytes(media_type::WASM, "hello.wasm", program.bytes).expect("the guest is valid wasm");
    space.cluster.push(&name, |image| image.layer(layer).entrypoint(["/hello.wasm"]));
    (name, program.digest)
}

/// Waits until the service has compiled a program.
async fn compiled(space: &Space<'_>, digest: &str) {
    let journal = space.cluster.daemon().journal();
    space
        .cluster
        .polled("a compile", || if journal.compiles(digest).is_empty() { Err(String::new()) } else { Ok(()) })
        .await;
}

/// The shipped manifest, unchanged, runs `prewasi watch` on the node. An image that the node has pulled is compiled before its deployment
/// has a pod, and pods compile nothing. The service goes on after a restart of containerd.
async fn daemon_set_compiles_before_the_first_pod(space: &Space<'_>) {
    let cluster = space.cluster;
    // A node has its content store with its first pull.
    cluster.pull(images::HELLO).await;
    cluster.apply(&[], &images::daemon_set());
    let path = "/api/v1/namespaces/prewasi/pods";
    let watch = async || {
        cluster
            .until("the service to be ready", path, |pods| {
                items(pods).into_iter().find(is_ready).ok_or_else(|| pods.to_string())
            })
            .await
    };
    let figure = |pod: &Value, name: &str| -> f64 {
        let (_, text) = http::get(&format!("{}:9464", text(pod, "/status/podIP")), "/metrics").expect("it answers");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.rsplit(' ').next()?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    let pod = watch().await;
    let journal = cluster.daemon().journal();

    let (name, digest) = push(space, "one");
    let container = with(wasm("wasm", &[]), json!({ "image": name }));
    space.apply(&[deployment("watched", 0, &[container])]);
    cluster.pull(&name).await;
    compiled(space, &digest).await;
    assert!(figure(&pod, "prewasi_compiles_total") >= 1.0);
    space.kubectl(&["scale", "deployment", "watched", "--replicas=3"]);
    for pod in space.deployed("watched", 3).await {
        space.logs(text(&pod, "/metadata/name"), "wasm", "tick 1").await;
    }
    assert_eq!(journal.compiles(&digest).len(), 1);

    cluster.daemon().restart(Signal::TERM).await;
    let (name, digest) = push(space, "two");
    cluster.pull(&name).await;
    compiled(space, &digest).await;
    let pod = watch().await;
    assert!((figure(&pod, "prewasi_containerd_connected") - 1.0).abs() < f64::EPSILON);
    cluster.kubectl(&["delete", "namespace", "prewasi", "--timeout=110s"]).success();
}
