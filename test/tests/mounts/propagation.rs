//! How mounts spread between node and container: `rootfsPropagation`, and the options of each mount.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case};
use serde_json::json;

use super::{Mounted, bind, with_mounts};
use crate::busybox;
use crate::confinement::{OURS, RUNC, running, same, wasm};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(mounts_spread_as_with_runc, needs Runc Busybox),
        case!(mounts_reach_node_and_container, needs Runc Busybox),
        case!(what_cannot_spread_is_refused, needs Runc Busybox),
    ]
}

/// All that can be said of one mount.
const OPTIONS: [&str; 8] = ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"];

/// Reads from `mountinfo` how each mount of a process spreads. Groups that the node has as well have its number, all others none.
fn spreading(pid: &str, groups: &[String]) -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("it runs");
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (path, options) = (fields[4], fields[5]);
        let tags = fields[6..].iter().take_while(|field| **field != "-");
        let tags = tags.map(|tag| {
            let known = groups.iter().any(|group| tag.ends_with(&format!(":{group}")));
            if known { (*tag).to_owned() } else { tag.split(':').next().unwrap_or(tag).to_owned() }
        });
        // The root of a wasm container is without devices, and its /proc read-only, by a mount over the first.
        let options = if path == "/" || path == "/proc" { "" } else { options };
        let mounts = found.entry(path.to_owned()).or_default();
        mounts.push(tags.collect::<Vec<_>>().join(" ") + " " + options);
        mounts.dedup();
    }
    found
}

/// Returns the numbers of the groups that mounts at and below a folder of the node are in.
fn groups(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("there is a /proc");
    let lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let inside = lines.filter(|fields| Path::new(fields[4]).starts_with(folder));
    inside
        .filter_map(|fields| Some(fields[6..].iter().find_map(|tag| tag.strip_prefix("shared:"))?.to_owned()))
        .collect()
}

/// For any settings of the root and of each mount, every mount of the container is private, shared, slave or unbindable as with runc. It is
/// in the same group as the node's.
async fn mounts_spread_as_with_runc(namespace: Namespace) {
    let shared = Mounted::new(namespace.folder().join("shared"), libc::MS_SHARED);
    let _below = Mounted::new(shared.path().join("below"), libc::MS_SHARED);
    let private = Mounted::new(namespace.folder().join("private"), libc::MS_PRIVATE);
    let mut known = groups(shared.path());
    assert_eq!(known.len(), 2);
    known.extend(groups(Path::new("/")));
    let mut mounts = Vec::new();
    for (number, source) in [shared.path(), private.path()].into_iter().enumerate() {
        mounts.push(bind(source, &format!("/volumes/{number}/none"), &["rbind"]));
        mounts.push(bind(source, &format!("/volumes/{number}/single"), &["bind", "rslave", "ro"]));
        for option in OPTIONS {
            mounts.push(bind(source, &format!("/volumes/{number}/{option}"), &["rbind", "rw", option]));
        }
    }
    mounts.push(bind(private.path(), "/volumes/0/rprivate/other", &["rbind", "rprivate"]));
    mounts.push(json!({ "destination": "/memory", "type": "tmpfs", "source": "tmpfs", "options": ["rshared"] }));
    mounts.push(
        json!({ "destination": "/hidden", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "unbindable"] }),
    );
    for root in [
        None,
        Some("private"),
        Some("rprivate"),
        Some("slave"),
        Some("rslave"),
        Some("shared"),
        Some("rshared"),
        Some("unbindable"),
    ] {
        let change = json!([with_mounts(&mounts), { "linux": { "rootfsPropagation": root } }]);
        let look = |container: &Container| spreading(&container.pid().to_string(), &known);
        let mut before = spreading("self", &known);
        let seen = same(&namespace, change, look).await;
        assert!(seen["/volumes/1/rprivate"][0].starts_with(' '), "{root:?}: {seen:?}");
        let mut after = spreading("self", &known);
        for seen in [&mut before, &mut after] {
            seen.retain(|path, _| Path::new(path).starts_with(namespace.folder()));
        }
        assert_eq!(after, before, "{root:?} leaves nothing on the node");
    }
}

/// `HostToContainer` and `Bidirectional` of Kubernetes: the container sees later mounts of the node, and the node those of the container. A
/// private volume has neither.
async fn mounts_reach_node_and_container(namespace: Namespace) {
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    for (option, root, seen) in
        [("rprivate", "rslave", false), ("rslave", "rslave", true), ("rshared", "rshared", true)]
    {
        for (image, runtime) in [(&native, RUNC), (&native, OURS), (&wasm, OURS)] {
            let volume = Mounted::new(namespace.folder().join("volume"), libc::MS_SHARED);
            let mounts = [bind(volume.path(), "/volume", &["rbind", option])];
            let change = json!([with_mounts(&mounts), { "linux": { "rootfsPropagation": root } }]);
            let container = running(&namespace, image, runtime, &change).await;
            let later = Mounted::new(volume.path().join("later"), libc::MS_SHARED);
            fs::write(later.path().join("file"), "").expect("it is ours");
            let inside = format!("/proc/{}/root/volume/later/file", container.pid());
            assert_eq!(Path::new(&inside).exists(), seen, "{option} {runtime}");
            container.end().await;
        }
    }
    let admin = json!({ "process": { "capabilities": null } });
    let sets = ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"];
    let sets = json!({ "process": { "capabilities": { "bounding": sets, "effective": sets, "permitted": sets } } });
    for (option, root, seen) in [("rslave", "rslave", false), ("rshared", "rshared", true)] {
        let volume = Mounted::new(namespace.folder().join("volume"), libc::MS_SHARED);
        let mounts = [bind(volume.path(), "/volume", &["rbind", option])];
        let change = json!([with_mounts(&mounts), { "linux": { "rootfsPropagation": root } }, admin, sets]);
        let container = running(&namespace, &native, OURS, &change).await;
        let script = "busybox mkdir /volume/new && busybox mount -t tmpfs new /volume/new && echo > /volume/new/file";
        let exited = container.exec(&["/bin/busybox", "sh", "-c", script]).run().await;
        assert_eq!(exited.code, 0, "{exited:?}");
        assert_eq!(volume.path().join("new/file").exists(), seen, "{option}");
        container.end().await;
        drop(Mounted(volume.path().join("new")));
    }
}

/// A value that nobody knows, and one that nothing can be mounted with, is refused with its name, and leaves nothing.
async fn what_cannot_spread_is_refused(namespace: Namespace) {
    let image = busybox::image(&namespace);
    for value in ["odd", "runbindable"] {
        let change = json!({ "linux": { "rootfsPropagation": value } });
        let container =
            |runtime| namespace.container(&image.name).runtime(runtime).args(&["true"]).change(change.clone());
        let Err(_) = container(RUNC).try_create().await else { panic!("runc takes {value}") };
        let Err(status) = container(OURS).try_create().await else { panic!("{value} is taken") };
        assert!(status.message().contains("rootfsPropagation") && status.message().contains(value), "{status}");
    }
    namespace.assert_clean().await;
}
