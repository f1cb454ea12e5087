//! AppArmor profiles and SELinux labels: in force, or the creation is refused with the reason. Where neither module is on, as
//! on most machines that test, all is refused; runc refuses it as well.

use std::fs;
use std::path::Path;

use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};
use serde_json::json;

use crate::busybox;
use crate::confinement::{OURS, RUNC, running, wasm};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(profile_that_cannot_be_had_is_refused, needs Runc Busybox),
        case!(label_without_selinux_is_refused, needs Runc Busybox),
    ]
}

/// Returns the messages with which wasm and native programs are refused, containers first; runc is asked, too.
async fn refusals(namespace: &Namespace, process: serde_json::Value) -> Vec<String> {
    let (wasm, native) = (wasm(namespace), busybox::image(namespace));
    let mut messages = Vec::new();
    for (image, runtime) in [(&native, RUNC), (&native, OURS), (&wasm, OURS)] {
        let builder = namespace.container(&image.name).runtime(runtime).args(&["sleep", "600"]);
        let created = builder.change(json!({ "process": process })).try_create().await;
        let status = created.err().expect("it cannot have that");
        if runtime == OURS {
            messages.push(status.message().to_owned());
        }
    }
    for (image, program) in [(&native, "/bin/busybox"), (&wasm, "/demo.wasm")] {
        let container = running(namespace, image, OURS, &json!({})).await;
        let mut executed = container.exec(&[program, "sleep", "600"]).change(process.clone()).create().await;
        messages.push(executed.try_start().await.expect_err("it cannot have that").message().to_owned());
        executed.delete().await;
        container.end().await;
    }
    messages
}

/// A profile that is not loaded, or for which there is no AppArmor, is refused.
async fn profile_that_cannot_be_had_is_refused(namespace: Namespace) {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'));
    let reason = if enabled { "it is not loaded on this node" } else { "AppArmor is not enabled on this node" };
    let messages = refusals(&namespace, json!({ "apparmorProfile": "prewasi-none" })).await;
    let expected = format!("cannot apply AppArmor profile \"prewasi-none\": {reason}");
    assert!(messages.iter().all(|message| message.contains(&expected)), "{messages:?}");
    assert_eq!(messages.len(), 4);
}

/// A label is refused where SELinux is off.
async fn label_without_selinux_is_refused(namespace: Namespace) {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        eprintln!("SELinux is on: there is nothing to refuse");
        return;
    }
    let label = "system_u:system_r:container_t:s0:c1,c2";
    let messages = refusals(&namespace, json!({ "selinuxLabel": label })).await;
    let expected = format!("cannot apply SELinux label {label:?}: SELinux is not enabled on this node");
    assert!(messages.iter().all(|message| message.contains(&expected)), "{messages:?}");
    assert_eq!(messages.len(), 4);
}
