//! How the kubelet stops a container that names its own way to be stopped.

use std::time::{Duration, Instant};

use k8s_cri::v1::{ContainerConfig, KeyValue};
use oci_tar_builder::Format;
use prewasi_test::cri::{Cri, Pod, container};
use prewasi_test::guests::{DEMO, WEB};
use prewasi_test::image::files;
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, http};
use prost::encoding;

use super::{address, guest, start};
use crate::busybox;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(stop_signal_of_the_pod_is_heard, needs Busybox Cni),
        case!(stop_signal_of_the_image_ends_servers_gracefully, needs Busybox Cni Runc),
        case!(stop_signal_of_the_pod_counts_over_the_images, needs Busybox Cni Runc Containerd2_2),
    ]
}

/// The kubelet's stop of a container whose image names another signal is heard, long before the end of the grace period.
async fn stop_signal_of_the_pod_is_heard(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let image = cri.push("usr1:v1", Format::Image, |image| {
        image.layer(guest(DEMO)).env("PREWASI_STOP", "stdin").stop_signal("SIGUSR1")
    });
    cri.pull(&image).await;
    let pod = cri.run_pod(cri.pod_config("stopped")).await;
    let id = cri.run(&pod, container("hearing", &image, &["cat"])).await;
    let start = Instant::now();
    cri.stop(&id, 20).await;
    let status = cri.exited(&id).await;
    assert_eq!((status.exit_code, &*status.reason), (0, "Completed"));
    assert!(start.elapsed() < Duration::from_secs(10), "it took {:?} to end", start.elapsed());
    cri.finish().await;
}

/// The stop signal that the images name.
const OF_IMAGE: &str = "SIGUSR1";
/// The script ends at SIGUSR1 and SIGUSR2 with its own code for each, and hears nothing else.
const SCRIPT: &str =
    "trap 'exit 0' USR1; trap 'exit 2' USR2; trap '' TERM; echo ready; while :; do busybox sleep 0.1; done";

/// The images: a native program, a program that hears of a stop, a server.
struct Images {
    native: String,
    hearing: String,
    server: String,
}

async fn images(cri: &Cri) -> Images {
    let native = files(&[("/bin/busybox", &busybox::bytes(), 0o755)]);
    let native = cri.push("native:v1", Format::Image, |image| {
        image.os("linux").entrypoint(["/bin/busybox"]).layer(native).stop_signal(OF_IMAGE)
    });
    let hearing = cri.push("hearing:v1", Format::Image, |image| image.layer(guest(DEMO)).stop_signal(OF_IMAGE));
    let server = cri.push("server:v1", Format::Image, |image| image.layer(guest(WEB)).stop_signal(OF_IMAGE));
    for image in [&native, &hearing, &server] {
        cri.pull(image).await;
    }
    Images { native, hearing, server }
}

/// Stops a container with a long grace period; returns exit code and reason. It ends long before.
async fn stopped(cri: &Cri, id: &str) -> (i32, String) {
    let start = Instant::now();
    cri.stop(id, 60).await;
    let status = cri.exited(id).await;
    assert!(start.elapsed() < Duration::from_secs(30), "it took {:?} to end", start.elapsed());
    (status.exit_code, status.reason)
}

/// Runs a container; `newer` has more fields of its description.
async fn run(cri: &Cri, pod: &Pod, config: ContainerConfig, newer: &[u8]) -> String {
    let id = cri.create_with(pod, config, newer.to_vec()).await.expect("containerd takes it");
    cri.start_container(&id).await.expect("it can be started");
    id
}

/// Stops a program that hears of a stop, and a server with a request that has begun; returns how each ends, and the answer.
async fn stop_wasm(cri: &Cri, images: &Images, newer: &[u8]) -> [(i32, String); 2] {
    let pod = cri.run_pod(cri.pod_config("wasm")).await;
    let stdin = KeyValue { key: "PREWASI_STOP".to_owned(), value: "stdin".to_owned() };
    let config = ContainerConfig { envs: vec![stdin], ..container("hearing", &images.hearing, &["cat"]) };
    let hearing = run(cri, &pod, config, newer).await;
    let hearing = stopped(cri, &hearing).await;
    let server = run(cri, &pod, container("server", &images.server, &[]), newer).await;
    let server_address = format!("{}:8080", address(cri, &pod).await);
    prewasi_test::eventually("the server", super::LIMIT, async || http::get(&server_address, "/")).await;
    let request = {
        let address = server_address.clone();
        tokio::spawn(async move { http::ask(&address, "/sleep/1000", b"").await })
    };
    http::requests_are_read_by(cri.pid(&server).await, &server_address, 1).await;
    let server = stopped(cri, &server).await;
    let answer = request.await.expect("the task ends").expect("the request is answered");
    assert_eq!(answer.body, b"slept\n");
    [hearing, server]
}

/// The stop signal of an image ends a program that hears of it, and a server that has answered what had begun, with 0, as it ends a native
/// program that handles it, with runc and with our shim.
async fn stop_signal_of_the_image_ends_servers_gracefully(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let images = images(&cri).await;
    for handler in ["runc", "wasmtime"] {
        assert_eq!(stop_native(&cri, &images, handler, &[]).await, (0, "Completed".to_owned()), "{handler}");
    }
    for end in stop_wasm(&cri, &images, &[]).await {
        assert_eq!(end, (0, "Completed".to_owned()));
    }
    cri.finish().await;
}

async fn stop_native(cri: &Cri, images: &Images, handler: &str, newer: &[u8]) -> (i32, String) {
    let pod = cri.run_pod_with(cri.pod_config(&format!("native-{handler}")), handler).await;
    let config = container("native", &images.native, &["sh", "-c", SCRIPT]);
    let id = run(cri, &pod, config.clone(), newer).await;
    cri.logs(&pod, &config, "stdout", "ready").await;
    stopped(cri, &id).await
}

/// `lifecycle.stopSignal` of a pod counts over the signal of the image. Wasm hears of it as of the image's.
async fn stop_signal_of_the_pod_counts_over_the_images(namespace: Namespace) {
    /// Number of the field, and of SIGUSR2 in CRI's own list.
    const STOP_SIGNAL: (u32, i32) = (18, 30);
    let cri = start(&namespace, "").await;
    let images = images(&cri).await;
    let mut newer = Vec::new();
    encoding::int32::encode(STOP_SIGNAL.0, &STOP_SIGNAL.1, &mut newer);
    for handler in ["runc", "wasmtime"] {
        assert_eq!(stop_native(&cri, &images, handler, &newer).await, (2, "Error".to_owned()), "{handler}");
    }
    for end in stop_wasm(&cri, &images, &newer).await {
        assert_eq!(end, (0, "Completed".to_owned()));
    }
    cri.finish().await;
}
