//! The message to the client about a container that cannot be built: the obstacle and its reason.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use prewasi_test::image::Imported;
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};
use serde_json::{Value, json};

use super::{bind, with_mounts};
use crate::busybox;
use crate::confinement::{OURS, RUNC, running, wasm};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(failing_hooks_are_told, needs Runc Busybox),
        case!(failing_hooks_of_the_start_are_told, needs Runc Busybox),
        case!(failing_mounts_are_told, needs Runc Busybox),
        case!(what_the_node_lacks_is_told, needs Busybox),
        case!(missing_proc_and_dev_are_told, needs Runc Busybox),
    ]
}

/// Asserts that a container cannot be created with a change, wasm or native, and that the answer says all parts.
async fn assert_told(namespace: &Namespace, images: &[&Imported], change: &Value, parts: &[&str]) {
    for image in images {
        let mut container = namespace.container(&image.name).args(&["echo"]);
        for change in change.as_array().map_or(std::slice::from_ref(change), Vec::as_slice) {
            container = container.change(change.clone());
        }
        let Err(status) = container.try_create().await else { panic!("{change} is taken for {}", image.name) };
        for part in parts {
            assert!(status.message().contains(part), "{part:?} in {status}");
        }
        assert!(status.message().len() < 1000, "{status}");
        if std::env::var_os("PREWASI_TEST_SHOW").is_some() {
            eprintln!("{}", status.message());
        }
    }
}

fn script(namespace: &Namespace, name: &str, text: &str) -> String {
    let path = namespace.folder().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("the folder is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    path.display().to_string()
}

/// A hook that fails is named, with its end and its output; so is one that is missing, cannot be executed, or hangs.
async fn failing_hooks_are_told(namespace: Namespace) {
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    let images = [&wasm, &native];
    let failing = script(&namespace, "failing", "cat > /dev/null; echo first >&2; echo no such tenant >&2; exit 3");
    let killed = script(&namespace, "killed", "kill -9 $$");
    let hanging = script(&namespace, "hanging", "exec sleep 60");
    let plain = namespace.folder().join("plain").display().to_string();
    fs::write(&plain, "no program").expect("the folder is ours");
    for phase in ["prestart", "createRuntime", "createContainer"] {
        let hook = |path: &str, timeout: Option<u32>| {
            let mut hook = json!({ "path": path });
            if let Some(timeout) = timeout {
                hook["timeout"] = json!(timeout);
            }
            json!({ "hooks": { phase: [hook] } })
        };
        assert_told(&namespace, &images, &hook(&failing, None), &[&failing, "exit code 3", "no such tenant"]).await;
        assert_told(&namespace, &images, &hook(&killed, Some(20)), &[&killed, "signal 9"]).await;
        assert_told(&namespace, &images[..1], &hook(&hanging, Some(1)), &[&hanging, "longer than 1 s"]).await;
        let missing = format!("{failing}-not");
        assert_told(&namespace, &images, &hook(&missing, None), &[&missing, "No such file or directory"]).await;
        assert_told(&namespace, &images, &hook(&plain, None), &[&plain, "ermission denied"]).await;
    }
    // runc says as much of them.
    let change = json!({ "hooks": { "createRuntime": [{ "path": failing }] } });
    let container = namespace.container(&native.name).runtime(RUNC).args(&["true"]).change(change);
    let Err(status) = container.try_create().await else { panic!("the hook fails") };
    assert!(status.message().contains("exit status 3") && status.message().contains("no such tenant"), "{status}");
    namespace.assert_clean().await;
}

/// A hook that fails when the container is started ends it, and the container's own output says so: its creation has been answered by then.
async fn failing_hooks_of_the_start_are_told(namespace: Namespace) {
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    let hook = json!({ "path": "/bin/busybox", "args": ["busybox", "sh", "-c", "echo no such tenant >&2; exit 3"] });
    let volume = bind(Path::new("/bin"), "/bin", &["bind", "ro"]);
    for (image, runtime) in [(&native, RUNC), (&native, OURS), (&wasm, OURS)] {
        let container = namespace.container(&image.name).runtime(runtime).args(&["echo"]).mount(volume.clone());
        let mut container = container.change(json!({ "hooks": { "startContainer": [hook] } })).create().await;
        // runc tells it in one of two places, as the race between its processes ends.
        let started = container.try_start().await;
        if runtime == OURS {
            started.expect("it is started, and ends");
            let exited = container.finish().await;
            assert_ne!(exited.code, 0, "{exited:?}");
            for part in ["no such tenant", "startContainer", "(3)"] {
                assert!(exited.stderr.contains(part), "{exited:?}");
            }
        } else {
            container.try_delete().await;
        }
    }
}

/// A mount that cannot be made is named with its source, its place, its options, and the system's error.
async fn failing_mounts_are_told(namespace: Namespace) {
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    let images = [&wasm, &native];
    let missing = namespace.folder().join("missing");
    let path = missing.display().to_string();
    let change = with_mounts(&[bind(&missing, "/data", &["rbind", "ro"])]);
    assert_told(&namespace, &images, &change, &[&path, "/data", "No such file or directory"]).await;
    let container = namespace.container(&native.name).runtime(RUNC).args(&["true"]).change(change);
    let Err(status) = container.try_create().await else { panic!("the source is missing") };
    assert!(status.message().contains(&path) && status.message().contains("/data"), "{status}");

    let odd = json!({ "destination": "/odd", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "oddity=1"] });
    assert_told(&namespace, &images, &with_mounts(&[odd]), &["tmpfs", "/odd", "oddity=1", "Invalid argument"]).await;
    let odd = json!({ "destination": "/odd", "type": "oddfs", "source": "none" });
    assert_told(&namespace, &images, &with_mounts(&[odd]), &["oddfs", "/odd", "No such device"]).await;
    let file = Path::new("/etc/passwd");
    let change = with_mounts(&[bind(file, "/proc/1", &["bind"])]);
    assert_told(&namespace, &images, &change, &["/etc/passwd", "/proc/1"]).await;
    let change = with_mounts(&[json!({ "destination": "/data", "type": "bind", "options": ["bind"] })]);
    assert_told(&namespace, &images, &change, &["/data", "source"]).await;
    namespace.assert_clean().await;
}

/// A feature that the node lacks is named: AppArmor, SELinux, system calls of a filter.
async fn what_the_node_lacks_is_told(namespace: Namespace) {
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    let images = [&wasm, &native];
    if !Path::new("/sys/module/apparmor").exists() {
        let change = json!({ "process": { "apparmorProfile": "some-profile" } });
        assert_told(&namespace, &images, &change, &["AppArmor", "some-profile"]).await;
    }
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        let change = json!({ "process": { "selinuxLabel": "a:b:c:d" } });
        assert_told(&namespace, &images, &change, &["SELinux", "a:b:c:d"]).await;
    }
    // A filter that asks somebody who is not there.
    let filter = json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/nowhere/listener",
        "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }] });
    let change = json!({ "linux": { "seccomp": filter } });
    assert_told(&namespace, &images[1..], &change, &["seccomp"]).await;
    let change = json!({ "linux": { "sysctl": { "kernel.odd": "1" } } });
    assert_told(&namespace, &images, &change, &["kernel.odd"]).await;
    namespace.assert_clean().await;
}

/// A container without `/proc` is refused by that name; without a `/dev` of its own it runs, as with runc.
async fn missing_proc_and_dev_are_told(namespace: Namespace) {
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    let without = |path: &str| {
        let mut mounts = prewasi_test::default_mounts();
        mounts.retain(|mount| !mount["destination"].as_str().is_some_and(|destination| destination.starts_with(path)));
        json!([{ "mounts": mounts }, { "linux": { "maskedPaths": null, "readonlyPaths": null } }])
    };
    let container = namespace.container(&native.name).runtime(RUNC).args(&["echo"]);
    let changes = without("/proc");
    let container = changes
        .as_array()
        .expect("a list")
        .iter()
        .fold(container, |container, change| container.change(change.clone()));
    let Err(status) = container.try_create().await else { panic!("runc needs no /proc") };
    assert!(status.message().contains("/proc"), "{status}");
    assert_told(&namespace, &[&wasm, &native], &without("/proc"), &["/proc", "mount"]).await;
    for (image, runtime) in [(&native, RUNC), (&native, OURS), (&wasm, OURS)] {
        running(&namespace, image, runtime, &without("/dev")).await.end().await;
    }
    namespace.assert_clean().await;
}
