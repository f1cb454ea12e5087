//! Requests of Kubernetes beyond plain pods: user namespaces, shared pid namespaces, and volumes that propagate mounts, are recursively
//! read-only, or have mapped ids.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use k8s_cri::v1::{
    ContainerConfig, ContainerStatusRequest, IdMapping, LinuxContainerConfig, LinuxContainerSecurityContext,
    LinuxSandboxSecurityContext, Mount, MountPropagation, NamespaceMode, NamespaceOption, PodSandboxConfig,
    StatusRequest, UserNamespace,
};
use prewasi_test::cri::{Cri, LIKE_RUNC, container};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};

use super::{demo, exec, native, start};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(user_namespace_of_a_pod, needs Busybox Cni),
        case!(containers_share_the_pids_of_their_pod, needs Busybox Cni),
        case!(volumes_spread_as_their_propagation_says, needs Busybox Cni),
        case!(features_are_those_that_work, needs Busybox Cni),
    ]
}

const FIRST: u32 = 131_072;
const SIZE: u32 = 65_536;

fn mapping() -> Vec<IdMapping> {
    vec![IdMapping { host_id: FIRST, container_id: 0, length: SIZE }]
}

pub(super) fn options(users: bool, pid: NamespaceMode) -> Option<NamespaceOption> {
    let userns_options =
        users.then(|| UserNamespace { mode: NamespaceMode::Pod.into(), uids: mapping(), gids: mapping() });
    Some(NamespaceOption { pid: pid.into(), userns_options, ..Default::default() })
}

/// Describes a pod and its containers with these namespaces.
pub(super) fn pod_with(mut config: PodSandboxConfig, namespace_options: Option<NamespaceOption>) -> PodSandboxConfig {
    let context = LinuxSandboxSecurityContext { namespace_options, ..Default::default() };
    config.linux.get_or_insert_default().security_context = Some(context);
    config
}

pub(super) fn container_with(
    mut config: ContainerConfig,
    namespace_options: Option<NamespaceOption>,
) -> ContainerConfig {
    let context = LinuxContainerSecurityContext { namespace_options, ..Default::default() };
    config.linux = Some(LinuxContainerConfig { security_context: Some(context), ..Default::default() });
    config
}

pub(super) fn volume(host: &Path) -> Mount {
    Mount { container_path: "/volume".to_owned(), host_path: host.display().to_string(), ..Default::default() }
}

/// Returns the process id of a container.
async fn pid(cri: &Cri, id: &str) -> u32 {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let answer = cri.runtime.clone().container_status(request).await.expect("the container is known").into_inner();
    let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).expect("it is JSON");
    info["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("it runs")
}

/// A pod with `hostUsers: false` runs wasm and native containers in one user namespace. Files of the image belong to its users, and so do
/// those of a volume with id mappings.
async fn user_namespace_of_a_pod(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let (wasm, busybox) = (demo(&cri).await, native(&cri).await);
    let users = options(true, NamespaceMode::Container);
    let pod = cri.run_pod(pod_with(cri.pod_config("users"), users.clone())).await;
    let host = cri.daemon.folder().join("volume");
    fs::create_dir(&host).expect("the folder is ours");
    fs::write(host.join("file"), "from the node\n").expect("the folder is ours");
    // containerd 1.7 knows of no mappings of volumes.
    let maps = !namespace.daemon().series().is_old();
    let mounted =
        if maps { Mount { uid_mappings: mapping(), gid_mappings: mapping(), ..volume(&host) } } else { volume(&host) };
    let mut namespaces = Vec::new();
    for (name, image, args) in [("native", &busybox, &["sleep", "600"][..]), ("wasm", &wasm, &["sleep", "600"])] {
        let mut config = container_with(container(name, image, args), users.clone());
        config.mounts = vec![mounted.clone()];
        let id = cri.run(&pod, config).await;
        let pid = pid(&cri, &id).await;
        let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).expect("it runs");
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "131072", "65536"], "{name}");
        namespaces.push(fs::read_link(format!("/proc/{pid}/ns/user")).expect("it runs"));
        let owner = |path: &str| {
            let path = format!("/proc/{pid}/root/{path}");
            fs::metadata(&path).unwrap_or_else(|error| panic!("{path}: {error}")).uid()
        };
        assert_eq!((owner(""), owner("dev"), owner("dev/null")), (FIRST, FIRST, 0), "{name}");
        assert_eq!(owner("volume/file"), if maps { FIRST } else { 0 }, "{name}");
        let command: &[&str] = if name == "wasm" {
            &["demo.wasm", "write", "/new", "x"]
        } else {
            &["/bin/busybox", "touch", "/new", "/volume/new"]
        };
        if name == "native" && !maps {
            let (code, said) =
                exec(&cri, &id, &["/bin/busybox", "stat", "-c", "%u", "/volume/file"]).await.expect("it runs");
            assert_eq!((code, said.trim()), (0, "65534"));
        } else {
            assert_eq!(exec(&cri, &id, command).await.expect("it runs").0, 0, "{name}");
            assert_eq!(owner("new"), FIRST, "{name}");
        }
    }
    if maps {
        assert_eq!(fs::metadata(host.join("new")).expect("it was made").uid(), 0);
    }
    assert_eq!(namespaces[0], namespaces[1]);
    cri.finish().await;
}

/// Containers that share the pids of their pod, or those of another container, start each time and see each other. (The former is
/// `shareProcessNamespace`, which CRI takes for the usual case, the latter `kubectl debug --target`.)
async fn containers_share_the_pids_of_their_pod(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let (wasm, busybox) = (demo(&cri).await, native(&cri).await);
    let shared = options(false, NamespaceMode::Pod);
    let pod = cri.run_pod(pod_with(cri.pod_config("shared"), shared.clone())).await;
    let first = cri.run(&pod, container_with(container("first", &busybox, &["sleep", "600"]), shared.clone())).await;
    for number in 0..10 {
        let config = container_with(container(&format!("wasm-{number}"), &wasm, &["sleep", "600"]), shared.clone());
        let id = cri.run(&pod, config).await;
        let of = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).expect("it runs");
        assert_eq!(of(pid(&cri, &id).await), of(pid(&cri, &first).await));
        cri.stop(&id, 0).await;
        cri.remove(&id).await;
    }
    let own = options(false, NamespaceMode::Container);
    let pod = cri.run_pod(pod_with(cri.pod_config("target"), own.clone())).await;
    let target = cri.run(&pod, container_with(container("target", &wasm, &["sleep", "600"]), own)).await;
    let mut debug = options(false, NamespaceMode::Target);
    debug.get_or_insert_default().target_id.clone_from(&target);
    let id = cri.run(&pod, container_with(container("debug", &busybox, &["sleep", "600"]), debug)).await;
    let (code, seen) = exec(&cri, &id, &["/bin/busybox", "ps"]).await.expect("it runs");
    assert!(code == 0 && seen.contains("demo.wasm"), "{seen}");
    cri.finish().await;
}

/// `HostToContainer` and `Bidirectional`, as the public tests of CRI check them. Later mounts of the node appear or do not appear, and
/// containers with such volumes start.
async fn volumes_spread_as_their_propagation_says(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let (wasm, busybox) = (demo(&cri).await, native(&cri).await);
    let pod = cri.run_pod(cri.pod_config("spread")).await;
    let host = crate::mounts::Mounted::new(cri.daemon.folder().join("host"), libc::MS_SHARED);
    let mut pids = Vec::new();
    for (name, propagation, seen) in [
        ("private", MountPropagation::PropagationPrivate, false),
        ("from-node", MountPropagation::PropagationHostToContainer, true),
        ("both-ways", MountPropagation::PropagationBidirectional, true),
    ] {
        for (kind, image, args) in [("native", &busybox, &["sleep", "600"][..]), ("wasm", &wasm, &["sleep", "600"])] {
            let mut config = container(&format!("{name}-{kind}"), image, args);
            config.mounts = vec![Mount { propagation: propagation.into(), ..volume(host.path()) }];
            let id = cri.run(&pod, config).await;
            pids.push((pid(&cri, &id).await, seen, format!("{name} {kind}")));
        }
    }
    let later = crate::mounts::Mounted::new(host.path().join("later"), libc::MS_SHARED);
    fs::write(later.path().join("file"), "").expect("it is ours");
    for (pid, seen, what) in pids {
        assert_eq!(Path::new(&format!("/proc/{pid}/root/volume/later/file")).exists(), seen, "{what}");
    }
    drop(later);
    cri.finish().await;
}

/// Where containerd 2.x asks the shim, it tells Kubernetes of recursive read-only mounts and user namespaces. A recursive read-only mount
/// is one.
async fn features_are_those_that_work(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let answer = cri.runtime.clone().status(StatusRequest { verbose: false }).await.expect("it answers").into_inner();
    if namespace.daemon().series().is_old() {
        // It does not ask.
        assert!(answer.runtime_handlers.is_empty(), "{answer:?}");
        cri.finish().await;
        return;
    }
    let handler = answer.runtime_handlers.iter().find(|handler| handler.name == LIKE_RUNC).expect("it is configured");
    let features = handler.features.as_ref().expect("the shim was asked");
    assert!(features.recursive_read_only_mounts && features.user_namespaces, "{features:?}");
    let wasm = demo(&cri).await;
    let pod = cri.run_pod_with(cri.pod_config("features"), LIKE_RUNC).await;
    let host = crate::mounts::Mounted::new(cri.daemon.folder().join("host"), libc::MS_PRIVATE);
    let below = crate::mounts::Mounted::new(host.path().join("below"), libc::MS_PRIVATE);
    for (recursive, code) in [(true, 1), (false, 0)] {
        let mut config = container(&format!("rro-{recursive}"), &wasm, &["write", "/volume/below/file", "x"]);
        config.mounts = vec![Mount { readonly: true, recursive_read_only: recursive, ..volume(host.path()) }];
        let id = cri.run(&pod, config).await;
        assert_eq!(cri.exited(&id).await.exit_code, code, "recursive: {recursive}");
    }
    drop(below);
    cri.finish().await;
}
