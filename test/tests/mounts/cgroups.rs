//! The cgroups of version 1 that a container sees, whichever pid namespace it is in.

use std::collections::BTreeMap;
use std::fs;

use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case};
use serde_json::{Value, json};

use super::with_mounts;
use crate::busybox;
use crate::confinement::{OURS, running, same, wasm};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(shared_pid_namespace_is_joined_each_time, needs Busybox),
        case!(own_cgroups_are_shown, needs Runc Busybox),
    ]
}

/// How many containers join the namespace of another one; with a number in this variable more.
const COUNT: usize = 60;
const VARIABLE: &str = "PREWASI_TEST_JOINS";

fn namespaces(pid: &Value, more: &[&str]) -> Value {
    let kinds = ["ipc", "uts", "mount", "network"].iter().chain(more).map(|kind| json!({ "type": kind }));
    json!({ "linux": { "namespaces": kinds.chain([pid.clone()]).collect::<Vec<_>>() } })
}

fn with_cgroups(options: &[&str]) -> Value {
    with_mounts(&[json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options })])
}

/// No creation of a container that joins another one's pid namespace fails, with the cgroups mounted as CRI has it, be it wasm or native.
async fn shared_pid_namespace_is_joined_each_time(namespace: Namespace) {
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    let first = running(&namespace, &native, OURS, &json!({})).await;
    let pid = json!({ "type": "pid", "path": format!("/proc/{}/ns/pid", first.pid()) });
    let count = std::env::var(VARIABLE).ok().and_then(|count| count.parse().ok()).unwrap_or(COUNT);
    for number in 0..count {
        let (image, args) = if number % 3 == 2 { (&native, ["true", ""]) } else { (&wasm, ["echo", "here"]) };
        let container = namespace.container(&image.name).args(&args).change(namespaces(&pid, &[]));
        let container = container.change(with_cgroups(&["nosuid", "noexec", "nodev", "relatime", "ro"]));
        let exited = container.run().await;
        assert_eq!(exited.code, 0, "{number}: {exited:?}");
    }
    first.end().await;
    namespace.assert_clean().await;
}

/// Reads from `mountinfo` the mounts at and below `/sys/fs/cgroup`: the part of a file system, and its attributes. The container's own id
/// is left out.
fn shown(container: &Container) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).expect("it runs");
    let text = text.replace(container.id(), "ID");
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| line.contains(" /sys/fs/cgroup")) {
        let (first, second) = line.split_once(" - ").expect("a line of mountinfo");
        let first: Vec<&str> = first.split(' ').collect();
        let kind = second.split(' ').next().unwrap_or_default();
        found.insert(first[4].to_owned(), format!("{} {} {:?} {kind}", first[3], first[5], &first[6..]));
    }
    let folder = format!("/proc/{}/root/sys/fs/cgroup", container.pid());
    for entry in fs::read_dir(folder).expect("it is mounted").flatten() {
        let kind = entry.file_type().expect("it is there");
        found.insert(entry.file_name().to_string_lossy().into_owned(), format!("{kind:?}"));
    }
    found
}

/// A container sees its own cgroups, as with runc: read-only or not, with a cgroup namespace or without.
async fn own_cgroups_are_shown(namespace: Namespace) {
    if !std::path::Path::new("/sys/fs/cgroup/memory").exists() {
        // With version 2 alone libcontainer mounts them.
        return;
    }
    let own = json!({ "type": "pid" });
    for options in
        [&["ro", "nosuid", "noexec", "nodev", "relatime"][..], &["rw", "nosuid", "noexec", "nodev", "rprivate"]]
    {
        for more in [&[][..], &["cgroup"]] {
            let change = json!([with_cgroups(options), namespaces(&own, more)]);
            let seen = same(&namespace, change, |container| {
                // In the other hierarchies the container is where the shim is: only runc knows of named ones.
                let mut seen = shown(container);
                seen.remove("/sys/fs/cgroup/systemd");
                seen
            })
            .await;
            assert!(seen["/sys/fs/cgroup/memory"].contains("/ID "), "{seen:?}");
        }
    }
}
