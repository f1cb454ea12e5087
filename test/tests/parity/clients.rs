//! Specifications as `ctr` and the CRI plugin write them.

use std::collections::BTreeMap;

use k8s_cri::v1::{
    Capability, ContainerConfig, Int64Value, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, LinuxSandboxSecurityContext, Mount, MountPropagation, NamespaceMode,
    NamespaceOption, SecurityProfile, security_profile,
};
use oci_tar_builder::Format;
use prewasi_test::cri::{Cri, container};
use prewasi_test::image::Imported;
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, eventually};
use serde_json::{Value, json};

use super::rows::{Neighbour, Place, Row, row};
use super::{LIMIT, RUNS, Seen, Subject, differences, layer, mixed, refused, seen};
use crate::busybox;
use crate::confinement::{OURS, RUNC};

pub(super) fn cases() -> Vec<Case> {
    vec![case!(options_of_ctr, needs Runc Busybox), case!(containers_of_kubernetes, needs Runc Busybox Cni)]
}

const NATIVE: [&str; 4] = ["/bin/busybox", "sh", "-c", "echo sleeping; exec busybox sleep 600"];
const WASM: [&str; 3] = ["/demo.wasm", "sleep", "600"];
const SUBJECTS: [Subject; 3] = [Subject::Reference, Subject::Native, Subject::Wasm];

/// The options of `ctr run`.
const OPTIONS: &[&[&str]] = &[
    &[],
    &["--user", "1000:1000"],
    &["--user", "1000"],
    &["--privileged"],
    &["--privileged", "--privileged-without-host-devices"],
    &["--read-only"],
    &["--net-host"],
    &["--seccomp"],
    &["--allow-new-privs"],
    &["--cap-add", "CAP_SYS_ADMIN", "--cap-drop", "CAP_MKNOD"],
    &["--cwd", "/work"],
    &["--hostname", "box"],
    &["--memory-limit", "67108864", "--cpu-shares", "512"],
    &["--cpus", "0.5"],
    &["--device", "/dev/full"],
    &["--mount", "type=bind,src=$FOLDER/folder,dst=/bound,options=rbind:ro"],
    &["--mount", "type=tmpfs,src=tmpfs,dst=/scratch,options=nosuid:size=1m"],
    &["--with-ns", "pid:/proc/$PID/ns/pid", "--with-ns", "network:/proc/$PID/ns/net"],
    &["--no-pivot"],
    &["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"],
    &["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536", "--user", "1000:1000"],
    &["--env", "A=B", "--label", "c=d", "--annotation", "e=f"],
];

/// Containers of `ctr run` are as with runc, with any options.
async fn options_of_ctr(namespace: Namespace) {
    let image = mixed(&namespace);
    let neighbour = Neighbour::new(&namespace, &image).await;
    let mut found = Vec::new();
    for options in OPTIONS {
        let mut all = Vec::new();
        for subject in SUBJECTS {
            all.push(run_by_ctr(&namespace, &image, &neighbour, options, subject).await);
        }
        for (subject, seen) in SUBJECTS.iter().zip(&all).skip(1) {
            found.extend(differences::check(&options.join(" "), *subject, &all[0], seen));
        }
    }
    neighbour.end().await;
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

async fn run_by_ctr(
    namespace: &Namespace,
    image: &Imported,
    neighbour: &Neighbour,
    options: &[&str],
    subject: Subject,
) -> Seen {
    let place = neighbour.place();
    let id = place.id.clone();
    let runtime = if subject == Subject::Reference { RUNC } else { OURS };
    let cgroup = format!("/{}/{id}", namespace.name());
    let options: Vec<String> = options.iter().map(|option| place.fill_text(option)).collect();
    let mut arguments = vec!["run", "--detach", "--runtime", runtime, "--cgroup", &cgroup];
    arguments.extend(options.iter().map(String::as_str));
    arguments.extend([&*image.name, &*id]);
    arguments.extend(if subject == Subject::Wasm { &WASM[..] } else { &NATIVE[..] });
    let output = namespace.ctr(&arguments);
    let mut seen = Seen::new();
    if !output.status.success() {
        refused(&mut seen, output.stderr);
    } else {
        seen.insert(RUNS.to_owned(), "yes".to_owned());
        let pid = namespace.pid_of(&id).await;
        is_at_work(pid, subject).await;
        seen.extend(seen::all(pid, &place));
        namespace.ctr(&["tasks", "rm", "--force", &id]);
    }
    namespace.ctr(&["containers", "rm", &id]);
    seen
}

/// Waits until a native program has taken the place of the shim, or until the filter of a guest, the last step, is in force.
async fn is_at_work(pid: u32, subject: Subject) {
    // While a thread is made, signals are blocked.
    let (file, wanted): (_, &[&str]) = match subject {
        Subject::Wasm => ("status", &["NoNewPrivs:\t1", "Seccomp:\t2", "SigBlk:\t0000000000000000"]),
        _ => ("cmdline", &["sleep\x00600"]),
    };
    eventually("the program", LIMIT, async || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        if wanted.iter().all(|part| text.contains(part)) { Ok(()) } else { Err(text) }
    })
    .await;
}

/// dockerd's specs by the options of `docker run`: the spec without options is complete, the others are changes to it.
const DOCKER: &str = include_str!("docker-26.1.json");

pub(super) fn docker() -> Vec<Row> {
    let specs: BTreeMap<String, Value> = serde_json::from_str(DOCKER).expect("the data are JSON");
    let nothing = json!({ "process": null, "linux": null, "mounts": null, "hostname": null, "annotations": null });
    let plain = |name: &str| row(name, nothing.clone()).then(specs["plain"].clone());
    let mut rows = vec![plain("docker: plain")];
    let others = specs.iter().filter(|(name, _)| *name != "plain");
    rows.extend(others.map(|(name, change)| plain(&format!("docker: {name}")).then(change.clone())));
    rows
}

/// The settings of Kubernetes for a container's security.
fn contexts() -> Vec<(&'static str, ContainerConfig)> {
    let with = |context: LinuxContainerSecurityContext| ContainerConfig {
        linux: Some(LinuxContainerConfig { security_context: Some(context), ..Default::default() }),
        ..Default::default()
    };
    let number = |value: i64| Some(Int64Value { value });
    let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let context = LinuxContainerSecurityContext::default;
    let capabilities = |add: &[&str], drop: &[&str]| {
        Some(Capability {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            add_ambient_capabilities: Vec::new(),
        })
    };
    let user =
        |uid: i64| LinuxContainerSecurityContext { run_as_user: number(uid), run_as_group: number(uid), ..context() };
    let profile =
        |kind: security_profile::ProfileType| Some(SecurityProfile { profile_type: kind as i32, ..Default::default() });
    let resources = LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 900,
        ..Default::default()
    };
    let mount = |propagation: MountPropagation, readonly: bool| ContainerConfig {
        mounts: vec![Mount {
            container_path: "/bound".to_owned(),
            host_path: "$FOLDER/folder".to_owned(),
            readonly,
            propagation: propagation as i32,
            ..Default::default()
        }],
        ..Default::default()
    };
    vec![
        ("nothing", with(context())),
        ("user", with(user(1000))),
        ("groups", with(LinuxContainerSecurityContext { supplemental_groups: vec![7, 5, 7], ..user(1000) })),
        (
            "all dropped",
            with(LinuxContainerSecurityContext {
                capabilities: capabilities(&[], &["ALL"]),
                no_new_privs: true,
                ..user(1000)
            }),
        ),
        (
            "one kept",
            with(LinuxContainerSecurityContext {
                capabilities: capabilities(&["NET_BIND_SERVICE"], &["ALL"]),
                ..context()
            }),
        ),
        ("read-only", with(LinuxContainerSecurityContext { readonly_rootfs: true, ..context() })),
        ("privileged", with(LinuxContainerSecurityContext { privileged: true, ..context() })),
        (
            "the runtime's filter",
            with(LinuxContainerSecurityContext {
                seccomp: profile(security_profile::ProfileType::RuntimeDefault),
                ..context()
            }),
        ),
        (
            "restricted, as Pod Security has it",
            with(LinuxContainerSecurityContext {
                seccomp: profile(security_profile::ProfileType::RuntimeDefault),
                capabilities: capabilities(&[], &["ALL"]),
                no_new_privs: true,
                readonly_rootfs: true,
                masked_paths: list(&["/proc/kcore", "/proc/keys", "/sys/firmware"]),
                readonly_paths: list(&["/proc/sys", "/proc/bus"]),
                ..user(65534)
            }),
        ),
        (
            "resources",
            ContainerConfig {
                linux: Some(LinuxContainerConfig { resources: Some(resources), ..Default::default() }),
                ..Default::default()
            },
        ),
        ("volume", mount(MountPropagation::PropagationPrivate, false)),
        ("volume, read-only", mount(MountPropagation::PropagationPrivate, true)),
        ("volume, host to container", mount(MountPropagation::PropagationHostToContainer, false)),
        ("volume, both ways", {
            let mut config = mount(MountPropagation::PropagationBidirectional, false);
            let context = LinuxContainerSecurityContext { privileged: true, ..context() };
            config.linux = Some(LinuxContainerConfig { security_context: Some(context), ..Default::default() });
            config
        }),
        (
            "working directory that is missing",
            ContainerConfig { working_dir: "/fresh/deep".to_owned(), ..Default::default() },
        ),
    ]
}

/// The namespaces that a pod shares with its node or among its containers.
fn pods() -> Vec<(&'static str, NamespaceOption)> {
    let none = NamespaceOption { pid: NamespaceMode::Container as i32, ..Default::default() };
    vec![
        ("processes of each container", none.clone()),
        ("processes of the pod", NamespaceOption { pid: NamespaceMode::Pod as i32, ..none.clone() }),
        (
            "the node's network and processes",
            NamespaceOption { pid: NamespaceMode::Node as i32, network: NamespaceMode::Node as i32, ..none },
        ),
    ]
}

/// Containers of pods are as with runc, with any settings of Kubernetes for pod and container.
async fn containers_of_kubernetes(namespace: Namespace) {
    let cri = Cri::start(namespace.daemon().series(), &busybox::bytes(), "").await;
    let reference =
        cri.push("parity:v1", Format::Image, |image| image.os("linux").entrypoint(["/none"]).layer(layer(&namespace)));
    cri.pull(&reference).await;
    let folder = cri.daemon.folder().join("row");
    std::fs::create_dir_all(folder.join("folder")).expect("the folder is ours");
    let mut found = Vec::new();
    for (number, (pod_name, options)) in pods().into_iter().enumerate() {
        // The others say nothing of namespaces.
        let rows = if number == 0 { contexts() } else { contexts().into_iter().take(1).collect() };
        let mut all: Vec<Vec<(String, Seen)>> = Vec::new();
        for subject in SUBJECTS {
            let mut config = cri.pod_config(&format!("pod-{number}-{subject:?}").to_lowercase());
            let linux = config.linux.get_or_insert_default();
            linux.security_context = Some(LinuxSandboxSecurityContext {
                namespace_options: Some(options.clone()),
                privileged: true,
                ..Default::default()
            });
            let pod = cri.run_pod_with(config, if subject == Subject::Reference { "runc" } else { "wasmtime" }).await;
            let mut seen_all = Vec::new();
            for (at, (name, row)) in rows.iter().enumerate() {
                let mut place = Place { folder: folder.clone(), namespace: pod.id.clone(), ..Default::default() };
                let words: &[&str] = if subject == Subject::Wasm { &WASM } else { &NATIVE };
                let mut config = container(&format!("row-{at}"), &reference, &words[1..]);
                config.command = vec![words[0].to_owned()];
                config.working_dir.clone_from(&row.working_dir);
                config.linux.clone_from(&row.linux);
                config.mounts.clone_from(&row.mounts);
                for mount in &mut config.mounts {
                    mount.host_path = place.fill_text(&mount.host_path);
                }
                let linux = config.linux.get_or_insert_default();
                linux.security_context.get_or_insert_default().namespace_options = Some(options.clone());
                let mut seen = Seen::new();
                let created = cri.create(&pod, config).await;
                let started = match &created {
                    Ok(id) => cri.start_container(id).await,
                    Err(status) => Err(status.clone()),
                };
                if let Err(status) = &started {
                    refused(&mut seen, status.to_string());
                }
                if let (Ok(id), Ok(())) = (&created, started) {
                    seen.insert(RUNS.to_owned(), "yes".to_owned());
                    place.id.clone_from(id);
                    let pid = cri.pid(id).await;
                    is_at_work(pid, subject).await;
                    seen.extend(seen::all(pid, &place));
                    cri.stop(id, 0).await;
                }
                if let Ok(id) = created {
                    cri.remove(&id).await;
                }
                seen_all.push((format!("{pod_name}: {name}"), seen));
            }
            all.push(seen_all);
        }
        for (subject, rows) in SUBJECTS.iter().zip(&all).skip(1) {
            for ((name, expected), (_, seen)) in all[0].iter().zip(rows) {
                found.extend(differences::check(name, *subject, expected, seen));
            }
        }
    }
    cri.finish().await;
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}
