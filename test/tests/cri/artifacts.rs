//! CNCF wasm artifacts with more than one layer of wasm, or with a list of their imports.

use k8s_cri::v1::ContainerConfig;
use oci_tar_builder::{Format, Layer, media_type};
use prewasi_test::cri::container;
use prewasi_test::guests::DEMO;
use prewasi_test::image::Program;
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};

use super::{guest, start};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(artifact_with_data_runs_in_a_pod, needs Busybox Cni),
        case!(import_that_is_not_provided_is_refused_before_compiling, needs Busybox Cni),
    ]
}

/// A CNCF wasm artifact with a layer of data is pulled and runs in a pod, beside files that the kubelet mounts. Data in the way of such a
/// file is refused.
async fn artifact_with_data_runs_in_a_pod(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let data = |path: &str| {
        let layer = Layer::from_bytes(media_type::DATA, "model", b"a model\n".to_vec()).expect("anything is data");
        layer.mounted_at(path).expect("the path is plain")
    };
    let image = cri.push("data:v1", Format::Artifact, |image| image.layer(guest(DEMO)).layer(data("/data/model")));
    cri.pull(&image).await;
    let pod = cri.run_pod(cri.pod_config("data")).await;
    let config = ContainerConfig {
        command: vec!["demo.wasm".to_owned()],
        ..container("data", &image, &["read", "/data/model"])
    };
    let id = cri.run(&pod, config.clone()).await;
    assert_eq!(cri.exited(&id).await.exit_code, 0);
    cri.logs(&pod, &config, "stdout", "a model").await;
    let image = cri.push("hosts:v1", Format::Artifact, |image| image.layer(guest(DEMO)).layer(data("/dev/shm/model")));
    cri.pull(&image).await;
    let config = ContainerConfig { command: vec!["demo.wasm".to_owned()], ..container("hosts", &image, &[]) };
    let id = cri.create(&pod, config).await.expect("containerd takes it");
    let status = cri.start_container(&id).await.expect_err("it cannot run");
    for part in ["at /dev/shm/model", "has a mount at /dev", &image] {
        assert!(status.message().contains(part), "{part:?} in {status}");
    }
    cri.finish().await;
}

/// An import that an artifact's config names and the engine does not provide is refused with its name, and no compile is begun.
async fn import_that_is_not_provided_is_refused_before_compiling(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let text = r#"(component (import "example:greeting/words@1.0.0" (instance (export "hello" (func)))))"#;
    let program = Program::new(wat::parse_str(text).expect("the text is a component"));
    let image = cri.push("words:v1", Format::Artifact, |image| image.layer(program.layer("words.wasm")));
    cri.pull(&image).await;
    let pod = cri.run_pod(cri.pod_config("words")).await;
    let config = ContainerConfig { command: vec!["words.wasm".to_owned()], ..container("words", &image, &[]) };
    let id = cri.create(&pod, config).await.expect("containerd takes it");
    let status = cri.start_container(&id).await.expect_err("it cannot run");
    for part in [&*image, "\"example:greeting/words@1.0.0\"", "wasmtime does not provide"] {
        assert!(status.message().contains(part), "{part:?} in {status}");
    }
    assert_eq!(cri.daemon.journal().compiles(&program.digest), []);
    cri.finish().await;
}
