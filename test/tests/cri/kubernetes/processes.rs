//! Containers that concern others of their pod: shared processes, ephemeral debug containers, sidecar containers.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use k8s_cri::v1::{Capability, ContainerConfig, ContainerMetadata, NamespaceMode};
use prewasi_test::cri::{Cri, Pod};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, eventually, process};

use super::super::LIMIT;
use super::super::pods::{container_with, options, pod_with, volume};
use super::{Facts, Program, SUBJECTS, assert_alike, end, node, pod_name, runs};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(shared_processes_are_signalled_from_another_container, needs Busybox Cni Runc),
        case!(debug_containers_join_their_target, needs Busybox Cni Runc),
        case!(sidecars_start_before_and_end_after, needs Busybox Cni Runc),
        case!(user_namespace_is_as_with_runc, needs Busybox Cni Runc),
    ]
}

/// The handlers with the programs of two containers of a pod; the first is the reference.
const PAIRS: [(&str, Program, Program); 5] = [
    ("runc", Program::Native, Program::Native),
    ("wasmtime", Program::Native, Program::Native),
    ("wasmtime", Program::Native, Program::Wasm),
    ("wasmtime", Program::Wasm, Program::Native),
    ("wasmtime", Program::Wasm, Program::Wasm),
];

/// Returns the number of a process in its own pid namespace.
fn inner_pid(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("a status has it");
    numbers.split_whitespace().next_back().expect("there is one").to_owned()
}

fn link(pid: u32, name: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("it runs").display().to_string()
}

/// With `shareProcessNamespace` a container sees the processes of another, with their arguments, and a signal from there ends them with the
/// usual code. The containers beside it run on.
async fn shared_processes_are_signalled_from_another_container(namespace: Namespace) {
    let (cri, image) = node(&namespace).await;
    let mut all = Vec::new();
    for subject @ (handler, program) in SUBJECTS {
        let shared = options(false, NamespaceMode::Pod);
        let config = pod_with(cri.pod_config(&pod_name(subject, "shared")), shared.clone());
        let pod = cri.run_pod_with(config, handler).await;
        let helper = Program::Native.container("helper", &image, &["sleep", "600"]);
        let helper = cri.run(&pod, container_with(helper, shared.clone())).await;
        let mut facts = Facts::new();
        for (signal, code) in [("TERM", 143), ("KILL", 137), ("HUP", 129)] {
            let name = format!("main-{}", signal.to_lowercase());
            let main = container_with(program.container(&name, &image, &["sleep", "600"]), shared.clone());
            let id = cri.run(&pod, main).await;
            let pid = inner_pid(cri.pid(&id).await);
            let script = format!("busybox tr '\\0' ' ' < /proc/{pid}/cmdline");
            let command = eventually("the program's arguments", LIMIT, async || {
                let (_, seen) = Program::Native.exec(&cri, &helper, &["sh", "-c", &script]).await;
                if seen.trim() == format!("{} sleep 600", program.path()) { Ok(seen) } else { Err(seen) }
            })
            .await;
            facts.insert(format!("{signal}: arguments"), command.trim().replace(program.path(), "PROGRAM"));
            let (sent, _) = Program::Native.exec(&cri, &helper, &["kill", &format!("-{signal}"), &pid]).await;
            let end = end(&cri, &id).await;
            assert_eq!(end, format!("{code} Error"), "{subject:?} {signal}");
            facts.insert(signal.to_owned(), format!("{sent} {end} {}", runs(&cri, &helper).await));
            cri.remove(&id).await;
        }
        all.push((format!("{subject:?}"), facts));
    }
    assert_alike(&all);
    cri.finish().await;
}

/// An ephemeral debug container joins the processes of a running container. It sees and signals that program, and with SYS_PTRACE, which
/// `kubectl debug` adds, reads its files. It is stopped and removed while the target runs on. The end of the target, whose process is the
/// first of the namespace, ends the other debug containers.
async fn debug_containers_join_their_target(namespace: Namespace) {
    let (cri, image) = node(&namespace).await;
    let mut all = Vec::new();
    for pair @ (handler, of_target, of_debug) in PAIRS {
        let own = options(false, NamespaceMode::Container);
        let name = format!("{}-{of_debug:?}", pod_name((handler, of_target), "debug")).to_lowercase();
        let pod = cri.run_pod_with(pod_with(cri.pod_config(&name), own.clone()), handler).await;
        let config = container_with(of_target.ticking("target", &image), own);
        let target = cri.run(&pod, config.clone()).await;
        cri.logs(&pod, &config, "stdout", "tick 1").await;
        let pid = cri.pid(&target).await;
        let debug = async |name: &str, capability: Option<&str>| {
            let mut namespaces = options(false, NamespaceMode::Target);
            namespaces.get_or_insert_default().target_id.clone_from(&target);
            let mut config = container_with(of_debug.ticking(name, &image), namespaces);
            let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
            let add_capabilities = capability.into_iter().map(str::to_owned).collect();
            context.expect("it has one").capabilities = Some(Capability { add_capabilities, ..Default::default() });
            let id = cri.run(&pod, config.clone()).await;
            cri.logs(&pod, &config, "stdout", "tick 1").await;
            id
        };
        let id = debug("first", Some("SYS_PTRACE")).await;
        let mut facts = seen_by(&cri, &id, of_debug, pid, of_target).await;
        cri.stop(&id, 5).await;
        facts.insert("stopped".to_owned(), format!("{} {}", end(&cri, &id).await, runs(&cri, &target).await));
        cri.remove(&id).await;
        let before = cri.log(&pod, &config).len();
        eventually("another tick of the target", LIMIT, async || {
            let ticks = cri.log(&pod, &config).len();
            if ticks > before { Ok(()) } else { Err(format!("{ticks}")) }
        })
        .await;
        assert_eq!(cri.pid(&target).await, pid, "{pair:?}");
        let id = debug("second", None).await;
        if of_debug == Program::Native {
            // The process of a wasm program is not dumpable.
            let code = i32::from(of_target == Program::Wasm);
            assert_eq!(of_debug.exec(&cri, &id, &["test", "-e", "/proc/1/root/mark"]).await.0, code, "{pair:?}");
        }
        cri.stop(&target, 0).await;
        facts.insert("target".to_owned(), end(&cri, &target).await);
        facts.insert("with its target".to_owned(), end(&cri, &id).await);
        all.push((format!("{pair:?}"), facts));
    }
    assert_eq!(all[0].1["stopped"], "143 Error true");
    assert_eq!(all[0].1["with its target"], "137 Error");
    assert_alike(&all);
    cri.finish().await;
}

/// Returns the facts of a debug container that runs beside its target.
async fn seen_by(cri: &Cri, id: &str, debug: Program, target: u32, of_target: Program) -> Facts {
    let own = cri.pid(id).await;
    let mut facts = Facts::new();
    for name in ["pid", "ipc", "net", "uts", "mnt", "user", "cgroup"] {
        facts.insert(format!("shares {name}"), (link(own, name) == link(target, name)).to_string());
    }
    // The first process is the target.
    let (code, seen) = debug.exec(cri, id, &debug.reading("/proc/1/cmdline")).await;
    facts.insert("sees the target".to_owned(), format!("{code} {}", seen.starts_with(of_target.path())));
    if debug == Program::Native {
        for (fact, words) in [
            ("signals the target", &["kill", "-0", "1"][..]),
            ("reads the target's files", &["cat", "/proc/1/root/mark"]),
        ] {
            let (code, seen) = debug.exec(cri, id, words).await;
            facts.insert(fact.to_owned(), format!("{code} {}", seen.trim()));
        }
    } else {
        // Wasm has no signals, and no way to another root. runc's values are those of the native program.
        facts.insert("signals the target".to_owned(), "0 ".to_owned());
        facts.insert("reads the target's files".to_owned(), "0 of the image".to_owned());
    }
    facts
}

/// A sidecar is an init container that stays: it is started and probed before the main container, started anew when it ends while that runs,
/// and stopped after it. A volume shows the main container what the init containers wrote.
async fn sidecars_start_before_and_end_after(namespace: Namespace) {
    let (cri, image) = node(&namespace).await;
    let mut all = Vec::new();
    for pair @ (handler, of_sidecar, of_main) in PAIRS {
        let name = format!("{}-{of_main:?}", pod_name((handler, of_sidecar), "sidecar")).to_lowercase();
        let pod = cri.run_pod_with(cri.pod_config(&name), handler).await;
        let shared = cri.daemon.folder().join(&name);
        fs::create_dir(&shared).expect("the folder is ours");
        let with_volume = |config| ContainerConfig { mounts: vec![volume(&shared)], ..config };
        let mut facts = Facts::new();
        let writing: &[&str] = match of_sidecar {
            Program::Native => &["sh", "-c", "echo settings > /volume/file"],
            Program::Wasm => &["write", "/volume/file", "settings"],
        };
        let init = cri.run(&pod, with_volume(of_sidecar.container("init", &image, writing))).await;
        facts.insert("init".to_owned(), end(&cri, &init).await);
        let sidecar = |attempt| ContainerConfig {
            metadata: Some(ContainerMetadata { name: "sidecar".to_owned(), attempt }),
            log_path: format!("sidecar-{attempt}.log"),
            ..with_volume(of_sidecar.ticking("sidecar", &image))
        };
        let first = started(&cri, &pod, sidecar(0)).await;
        let probe: &[&str] = if of_sidecar == Program::Native { &["true"] } else { &["exit", "0"] };
        facts.insert("probe".to_owned(), of_sidecar.exec(&cri, &first, probe).await.0.to_string());
        let config = with_volume(of_main.ticking("main", &image));
        let main = started(&cri, &pod, config.clone()).await;
        let (code, read) = of_main.exec(&cri, &main, &of_main.reading("/volume/file")).await;
        facts.insert("reads".to_owned(), format!("{code} {read}"));
        let pid = cri.pid(&main).await;
        // Its liveness probe has failed.
        cri.stop(&first, 5).await;
        facts.insert("first sidecar".to_owned(), end(&cri, &first).await);
        let second = started(&cri, &pod, sidecar(1)).await;
        cri.remove(&first).await;
        facts.insert("main runs on".to_owned(), (runs(&cri, &main).await && cri.pid(&main).await == pid).to_string());
        // The end of the pod.
        cri.stop(&main, 5).await;
        facts.insert("main".to_owned(), end(&cri, &main).await);
        let seen = of_sidecar.exec(&cri, &second, &of_sidecar.reading("/volume/file")).await;
        facts.insert("sidecar outlives main".to_owned(), format!("{} {seen:?}", runs(&cri, &second).await));
        cri.stop(&second, 5).await;
        facts.insert("second sidecar".to_owned(), end(&cri, &second).await);
        let (main, sidecar) = (cri.status(&main).await, cri.status(&second).await);
        facts.insert("order of ends".to_owned(), (main.finished_at < sidecar.finished_at).to_string());
        let attempt = sidecar.metadata.map(|metadata| metadata.attempt);
        assert_eq!(attempt, Some(1), "{pair:?}");
        all.push((format!("{pair:?}"), facts));
    }
    let expected =
        [("init", "0 Completed"), ("reads", "0 settings\n"), ("main", "143 Error"), ("second sidecar", "143 Error")];
    for (fact, value) in expected {
        assert_eq!(all[0].1[fact], value, "{fact}");
    }
    for fact in ["main runs on", "order of ends"] {
        assert_eq!(all[0].1[fact], "true", "{fact}");
    }
    assert_alike(&all);
    cri.finish().await;
}

/// Runs a container that ticks, and waits for the first tick.
async fn started(cri: &Cri, pod: &Pod, config: ContainerConfig) -> String {
    let id = cri.run(pod, config.clone()).await;
    cri.logs(pod, &config, "stdout", "tick 1").await;
    id
}

/// Returns whether runc maps the ids of mounts, as from 1.2 on. containerd 2.x starts no pod with users of its own otherwise, and then our
/// shim with a native program is the reference.
fn runc_maps_ids() -> bool {
    let features = process::run(Command::new("runc").arg("features"), LIMIT).success();
    let features: serde_json::Value = serde_json::from_str(&features.stdout).expect("runc prints JSON");
    features["linux"]["mountExtensions"]["idmap"]["enabled"] == true
}

/// With `hostUsers: false` the containers of a pod have the ids of the pod's mapping, and share its user namespace with the pause container.
/// New files belong to the mapped user.
async fn user_namespace_is_as_with_runc(namespace: Namespace) {
    let (cri, image) = node(&namespace).await;
    let users = options(true, NamespaceMode::Container);
    let has_reference = namespace.daemon().series().is_old() || runc_maps_ids();
    let mut all = Vec::new();
    for subject @ (handler, program) in SUBJECTS.into_iter().skip(usize::from(!has_reference)) {
        let config = pod_with(cri.pod_config(&pod_name(subject, "users")), users.clone());
        let pod = cri.run_pod_with(config, handler).await;
        let first = started(&cri, &pod, container_with(program.ticking("first", &image), users.clone())).await;
        let second = started(&cri, &pod, container_with(program.ticking("second", &image), users.clone())).await;
        let pids = [cri.pid(&first).await, cri.pid(&second).await, cri.pod_pid(&pod.id).await];
        let mut facts = Facts::new();
        for map in ["uid_map", "gid_map"] {
            let text = fs::read_to_string(format!("/proc/{}/{map}", pids[0])).expect("it runs");
            facts.insert(map.to_owned(), text.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        for name in ["user", "pid", "mnt", "net", "ipc", "uts"] {
            let [first, second, pause] = pids.map(|pid| link(pid, name));
            facts.insert(format!("{name} namespace"), format!("{} {}", first == second, first == pause));
        }
        let writing: &[&str] = match program {
            Program::Native => &["touch", "/new"],
            Program::Wasm => &["write", "/new", "x"],
        };
        facts.insert("write".to_owned(), program.exec(&cri, &first, writing).await.0.to_string());
        for path in ["", "new", "mark", "dev", "dev/null", "dev/shm", "proc", "sys", "etc/hosts", "etc/hostname"] {
            let metadata = fs::metadata(format!("/proc/{}/root/{path}", pids[0]));
            let owner = metadata.map(|metadata| format!("{} {:o}", metadata.uid(), metadata.mode()));
            facts.insert(format!("/{path}"), owner.unwrap_or_else(|error| error.kind().to_string()));
        }
        all.push((format!("{subject:?}"), facts));
    }
    assert_eq!(all[0].1["uid_map"], "0 131072 65536");
    assert_eq!(all[0].1["user namespace"], "true true");
    assert_alike(&all);
    cri.finish().await;
}
