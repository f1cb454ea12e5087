//! The nodes of Kubernetes distributions: containerd with the configuration that each of them generates, plus the changes that its
//! documentation asks for another runtime. The files in `nodes/` have the keys of k3s (`pkg/agent/templates`), kind (`images/base`),
//! MicroK8s (`containerd-template.toml`) and k0s (`pkg/component/worker/containerd`); paths are those of the test.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use oci_tar_builder::Format;
use prewasi_test::cri::{Cri, container};
use prewasi_test::guests::{self, DEMO};
use prewasi_test::image::files;
use prewasi_test::process;
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, home};
use serde_json::json;

use super::{LIMIT, demo, native};
use crate::busybox;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(k3s_and_rke2, needs Busybox Cni),
        case!(kind, needs Busybox Cni),
        case!(microk8s, needs Busybox Cni),
        case!(k0s, needs Busybox Cni),
    ]
}

/// Starts containerd with a distribution's file. The rights of this machine allow no lower `oom_score_adj` than that of the test.
async fn node(namespace: &Namespace, file: &str) -> Cri {
    let series = namespace.daemon().series();
    let ctr = series.programs().join("ctr");
    Cri::start_with(series, &busybox::bytes(), |folder, plain, pause| {
        base(&ctr, folder);
        let (_, plain) = plain.split_once('\n').expect("the version is in its first line");
        let (comment, rest) = file.split_once("version = ").expect("each file has a version");
        let (version, rest) = rest.split_once('\n').expect("it is a line");
        let rest = rest
            .replace("  restrict_oom_score_adj = false\n", "")
            .replacen("  sandbox_image =", "  restrict_oom_score_adj = true\n  sandbox_image =", 1)
            .replacen("  device_ownership", "  restrict_oom_score_adj = true\n  device_ownership", 1)
            .replace("{folder}", &folder.display().to_string())
            .replace("{shim}", &home::program("containerd-shim-wasmtime-v1").display().to_string())
            .replace("{pause}", pause);
        format!("{comment}version = {version}\n{plain}{rest}")
    })
    .await
}

/// Writes the specification that kind's node has for each container: that of `ctr oci spec`, and a hook, which notes that it ran.
fn base(ctr: &Path, folder: &Path) {
    let mut spec: serde_json::Value = {
        let output = process::run(Command::new(ctr).args(["oci", "spec"]), LIMIT).success();
        serde_json::from_str(&output.stdout).expect("ctr prints JSON")
    };
    let hook = folder.join("hook.sh");
    fs::write(&hook, format!("#!/bin/sh\necho ran >> {}/hooks\n", folder.display())).expect("the folder is ours");
    fs::set_permissions(&hook, Permissions::from_mode(0o755)).expect("the file is ours");
    spec["hooks"] = json!({ "createContainer": [{ "path": hook }] });
    fs::write(folder.join("cri-base.json"), spec.to_string()).expect("the folder is ours");
}

/// Wasm as a layer, wasm as a file and a native program run in one pod, each of them twice; the second start compiles nothing.
async fn assert_runs(cri: &Cri) {
    let bytes = fs::read(guests::path(DEMO)).expect("the guest is there");
    let layer = files(&[("/app/demo.wasm", &bytes, 0o644)]);
    let file =
        cri.push("file:v1", Format::Image, |image| image.os("linux").entrypoint(["/app/demo.wasm"]).layer(layer));
    cri.pull(&file).await;
    let (layer, native) = (demo(cri).await, native(cri).await);
    let pod = cri.run_pod(cri.pod_config("node")).await;
    for round in ["first", "second"] {
        for (kind, image) in [("layer", &layer), ("file", &file), ("native", &native)] {
            let name = format!("{kind}-{round}");
            let config = container(&name, image, &["echo", &name]);
            let id = cri.run(&pod, config.clone()).await;
            assert_eq!(cri.exited(&id).await.exit_code, 0, "{name}");
            cri.logs(&pod, &config, "stdout", &name).await;
            cri.remove(&id).await;
        }
        // The layer and the file.
        assert_eq!(cri.daemon.journal().all().len(), 2, "{round}");
    }
}

async fn runs(namespace: &Namespace, file: &str) {
    let cri = node(namespace, file).await;
    assert_runs(&cri).await;
    cri.finish().await;
}

/// k3s and RKE2 find the shim by themselves, and write options of runc into its table.
async fn k3s_and_rke2(namespace: Namespace) {
    let is_old = namespace.daemon().series().is_old();
    let file = if is_old { include_str!("nodes/k3s.v2.toml") } else { include_str!("nodes/k3s.v3.toml") };
    runs(&namespace, file).await;
}

/// On a node of kind, containerd discards unpacked layers; wasm and native code stay. The node's hook runs for each container.
async fn kind(namespace: Namespace) {
    let cri = node(&namespace, include_str!("nodes/kind.toml")).await;
    let hooks = || fs::read_to_string(cri.daemon.folder().join("hooks")).unwrap_or_default().lines().count();
    cri.run_pod_with(cri.pod_config("of-runc"), "runc").await;
    let of_runc = hooks();
    assert_runs(&cri).await;
    // Under runc the pod itself starts without the node's hook. Three containers have it twice.
    assert_eq!((of_runc, hooks()), (0, 6));
    cri.finish().await;
}

/// MicroK8s has a table of options with runc's names, and a runtime's keys of old releases.
async fn microk8s(namespace: Namespace) {
    runs(&namespace, include_str!("nodes/microk8s.toml")).await;
}

/// k0s writes out containerd's defaults. A copy of runc's table has each of its options, with an empty value.
async fn k0s(namespace: Namespace) {
    runs(&namespace, include_str!("nodes/k0s.toml")).await;
}
