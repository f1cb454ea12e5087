//! Resources of pods and containers: resizes in place, the static CPU manager, the overhead of a RuntimeClass.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_cri::v1::{ContainerConfig, LinuxContainerConfig, LinuxContainerResources, UpdateContainerResourcesRequest};
use prewasi_test::cri::{Cri, Pod};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};
use prost::Message as _;

use super::{Facts, Program, SUBJECTS, assert_alike, node, pod, pod_name};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(resize_in_place_sends_all_resources, needs Busybox Cni Runc),
        case!(static_cpu_manager_sends_cpus_alone, needs Busybox Cni Runc),
        case!(overhead_leaves_the_pods_cgroup_alone, needs Busybox Cni Runc),
        case!(resize_of_a_pod_changes_no_container, needs Busybox Cni Runc Containerd2_2),
    ]
}

const MEBIBYTE: i64 = 1 << 20;
const PERIOD: i64 = 100_000;

/// The limits that are read: controller, files of v1, files of v2. On v2 the weight is missing: runc before 1.3.2 has another formula for it.
const LIMITS: [(&str, &[&str], &[&str]); 5] = [
    ("cpu", &["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"], &["cpu.max"]),
    ("cpuset", &["cpuset.cpus", "cpuset.mems"], &["cpuset.cpus", "cpuset.mems"]),
    (
        "memory",
        &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes"],
        &["memory.max", "memory.swap.max", "memory.low", "memory.high"],
    ),
    ("pids", &["pids.max"], &["pids.max"]),
    ("hugetlb", &["hugetlb.2MB.limit_in_bytes"], &["hugetlb.2MB.max"]),
];

/// Returns the folder of a controller, and whether that is v1; `path` is a process' cgroup, by controller.
fn folder(controller: &str, path: impl Fn(&str) -> Option<String>) -> (PathBuf, bool) {
    let root = Path::new("/sys/fs/cgroup");
    let below = |path: &str| path.trim_start_matches('/').to_owned();
    match path(controller) {
        Some(path) => (root.join(controller).join(below(&path)), true),
        None => (root.join(below(&path("").unwrap_or_default())), false),
    }
}

/// Reads the limits in folders of cgroups.
fn limits(place: &str, folder: impl Fn(&str) -> (PathBuf, bool)) -> Facts {
    let mut facts = Facts::new();
    for (controller, legacy, unified) in LIMITS {
        let (folder, is_legacy) = folder(controller);
        for name in if is_legacy { legacy } else { unified } {
            let value = fs::read_to_string(folder.join(name)).unwrap_or_else(|error| error.kind().to_string());
            facts.insert(format!("{place}: {name}"), value.trim().to_owned());
        }
    }
    facts
}

/// Reads the limits of a process' cgroups, and the processors of its threads.
fn of_process(place: &str, pid: u32) -> Facts {
    let mut facts = limits(place, |controller| folder(controller, |controller| cgroup(pid, controller)));
    facts.insert(format!("{place}: processors"), processors(pid));
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it runs");
    facts.insert(format!("{place}: oom_score_adj"), score.trim().to_owned());
    facts
}

/// Returns the cgroup of a process for a controller of v1, or, for none, that of v2.
fn cgroup(pid: u32, controller: &str) -> Option<String> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    cgroups.lines().find_map(|line| {
        let fields: Vec<&str> = line.splitn(3, ':').collect();
        fields[1].split(',').any(|name| name == controller).then(|| fields[2].to_owned())
    })
}

/// Returns the processors that the threads of a process may use.
fn processors(pid: u32) -> String {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    // A thread may have ended since.
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let lists: BTreeSet<String> = texts.map(|text| allowed(&text)).collect();
    lists.into_iter().collect::<Vec<_>>().join(" and ")
}

fn allowed(status: &str) -> String {
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a status has it").trim().to_owned()
}

async fn update(cri: &Cri, id: &str, linux: LinuxContainerResources) {
    let request =
        UpdateContainerResourcesRequest { container_id: id.to_owned(), linux: Some(linux), ..Default::default() };
    cri.runtime.clone().update_container_resources(request).await.expect("limits can be changed");
}

/// Describes the resources of a container: processor time in thousandths, and memory. The kubelet sends these fields, and no other.
fn resources(milli: i64, mebibytes: i64) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: milli * PERIOD / 1000,
        cpu_shares: milli * 1024 / 1000,
        memory_limit_in_bytes: mebibytes * MEBIBYTE,
        oom_score_adj: 900,
        ..Default::default()
    }
}

fn limited(config: ContainerConfig, resources: LinuxContainerResources) -> ContainerConfig {
    let linux = LinuxContainerConfig { resources: Some(resources), ..Default::default() };
    ContainerConfig { linux: Some(linux), ..config }
}

/// Runs a container with limits in a pod, until its program ticks. Returns its id.
async fn ticking(cri: &Cri, pod: &Pod, program: Program, image: &str, resources: LinuxContainerResources) -> String {
    let config = limited(program.ticking("ticking", image), resources);
    let id = cri.run(pod, config.clone()).await;
    cri.logs(pod, &config, "stdout", "tick 1").await;
    id
}

/// Asserts that a limit is set: its file on v1 and its value there, or that on v2.
fn assert_limit(facts: &Facts, place: &str, legacy: (&str, &str), unified: (&str, &str)) {
    let value = |name: &str| facts.get(&format!("{place}: {name}")).cloned();
    match value(legacy.0) {
        Some(seen) if legacy.0 != unified.0 => assert_eq!(seen, legacy.1, "{place}: {}", legacy.0),
        _ => assert_eq!(value(unified.0).as_deref(), Some(unified.1), "{place}: {}", unified.0),
    }
}

/// A resize in place sends all resources of a container with each update, and what is zero stays. Memory grows and shrinks, processor time
/// grows and loses its limit. An update before the start holds from the start on.
async fn resize_in_place_sends_all_resources(namespace: Namespace) {
    let (cri, image) = node(&namespace).await;
    let mut all = Vec::new();
    for subject @ (_, program) in SUBJECTS {
        let pod = pod(&cri, subject, "resize").await;
        let id = ticking(&cri, &pod, program, &image, resources(200, 64)).await;
        let pid = cri.pid(&id).await;
        let mut facts = of_process("created", pid);
        for (step, wanted) in [
            ("more", resources(400, 128)),
            ("less memory", resources(400, 96)),
            ("processor time alone", LinuxContainerResources { memory_limit_in_bytes: 0, ..resources(300, 0) }),
            ("no limit of processor time", LinuxContainerResources { cpu_quota: -1, ..resources(300, 96) }),
            ("nothing", LinuxContainerResources::default()),
        ] {
            update(&cri, &id, wanted).await;
            facts.extend(of_process(step, pid));
        }
        let config = limited(program.ticking("later", &image), resources(200, 64));
        let id = cri.create(&pod, config.clone()).await.expect("containerd takes it");
        update(&cri, &id, resources(250, 80)).await;
        cri.start_container(&id).await.expect("it can be started");
        cri.logs(&pod, &config, "stdout", "tick 1").await;
        facts.extend(of_process("before the start", cri.pid(&id).await));
        all.push((format!("{subject:?}"), facts));
    }
    for (_, facts) in &all {
        for (place, quota, memory) in [
            ("created", "20000", "67108864"),
            ("more", "40000", "134217728"),
            ("less memory", "40000", "100663296"),
            ("processor time alone", "30000", "100663296"),
            ("no limit of processor time", "-1", "100663296"),
            ("nothing", "-1", "100663296"),
            ("before the start", "25000", "83886080"),
        ] {
            let unified = format!("{} {PERIOD}", quota.replace("-1", "max"));
            assert_limit(facts, place, ("cpu.cfs_quota_us", quota), ("cpu.max", &unified));
            assert_limit(facts, place, ("memory.limit_in_bytes", memory), ("memory.max", memory));
        }
    }
    assert_alike(&all);
    cri.finish().await;
}

/// The static CPU manager sends the processors of a container and nothing else: its threads, and those of processes executed in it, run
/// there, and no other limit changes.
async fn static_cpu_manager_sends_cpus_alone(namespace: Namespace) {
    let (cri, image) = node(&namespace).await;
    let everywhere = allowed(&fs::read_to_string("/proc/self/status").expect("this process is there"));
    let one: String = everywhere.chars().take_while(char::is_ascii_digit).collect();
    let mut all = Vec::new();
    for subject @ (_, program) in SUBJECTS {
        let pod = pod(&cri, subject, "cpus").await;
        let id = ticking(&cri, &pod, program, &image, resources(500, 64)).await;
        let pid = cri.pid(&id).await;
        let before = of_process("", pid);
        let mut facts = Facts::new();
        for (step, cpus) in [("one", &one), ("all", &everywhere), ("one again", &one)] {
            update(&cri, &id, LinuxContainerResources { cpuset_cpus: cpus.clone(), ..Default::default() }).await;
            let now = of_process("", pid);
            assert_eq!(now[": processors"], *cpus, "{subject:?}");
            let changed = now.iter().filter(|(name, value)| before.get(*name) != Some(*value));
            facts.extend(changed.map(|(name, value)| (format!("{step}{name}"), value.clone())));
            facts.insert(format!("{step}: cpuset"), now[": cpuset.cpus"].clone());
        }
        let (code, status) = program.exec(&cri, &id, &program.reading("/proc/self/status")).await;
        facts.insert("executed".to_owned(), format!("{code} {}", allowed(&status)));
        // The manager keeps the processors over a resize, which does not name them.
        update(&cri, &id, resources(600, 96)).await;
        facts.extend(of_process("resized", pid));
        all.push((format!("{subject:?}"), facts));
    }
    for (subject, facts) in &all {
        let seen = ["one: cpuset", "all: cpuset", "one again: cpuset", "resized: cpuset.cpus"].map(|name| &facts[name]);
        assert_eq!(seen, [&one, &everywhere, &one, &one], "{subject}");
        assert_eq!(facts["executed"], format!("0 {one}"), "{subject}");
    }
    assert_alike(&all);
    cri.finish().await;
}

/// A pod's own cgroup, which the kubelet makes in each hierarchy, before it runs the pod, and removes after it.
struct PodCgroup {
    path: String,
    folders: Vec<PathBuf>,
}

impl PodCgroup {
    fn new(parent: &str, name: &str) -> Self {
        let path = format!("{parent}/{name}");
        let is_legacy = Path::new("/sys/fs/cgroup/memory").exists();
        let roots: &[&str] = if is_legacy { &["memory", "cpu", "pids"] } else { &[""] };
        let mut folders = Vec::new();
        for root in roots {
            let root = Path::new("/sys/fs/cgroup").join(root);
            let folder = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(&folder).expect("cgroups can be made");
            if !is_legacy {
                for above in [root.clone(), root.join(parent.trim_start_matches('/')), folder.clone()] {
                    fs::write(above.join("cgroup.subtree_control"), "+cpu +memory +pids")
                        .expect("controllers are there");
                }
            }
            for (name, value) in [
                ("memory.limit_in_bytes", "268435456"),
                ("memory.max", "268435456"),
                ("cpu.cfs_quota_us", "60000"),
                ("cpu.max", "60000 100000"),
                ("cpu.shares", "307"),
                ("pids.max", "200"),
            ] {
                let file = folder.join(name);
                if file.exists() {
                    fs::write(file, value).expect("a limit can be set");
                }
            }
            folders.push(folder);
        }
        Self { path, folders }
    }

    fn limits(&self, place: &str) -> Facts {
        let mut facts = Facts::new();
        for folder in &self.folders {
            facts.extend(limits(place, |controller| {
                (folder.clone(), folder.starts_with(Path::new("/sys/fs/cgroup").join(controller)))
            }));
            let processes =
                fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_else(|error| error.kind().to_string());
            facts.insert(format!("{place}: processes of its own"), processes);
        }
        facts
    }

    /// Removes it; returns the hierarchies that have it. Runtimes make it where the kubelet has not, and leave it to the kubelet.
    fn remove(self) -> String {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(root).expect("cgroups are mounted").flatten().map(|entry| entry.path());
        let own = |hierarchy: PathBuf| hierarchy.join(self.path.trim_start_matches('/'));
        let mut found: Vec<PathBuf> =
            hierarchies.chain([root.to_owned()]).map(own).filter(|folder| folder.is_dir()).collect();
        found.sort();
        for folder in &found {
            fs::remove_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        }
        let names = found.iter().filter_map(|folder| folder.strip_prefix(root).ok()?.iter().next());
        // Beside v1 there may be an empty hierarchy of v2, in which runc alone makes cgroups.
        let names = names.map(|name| name.to_string_lossy()).filter(|name| name != "unified");
        names.collect::<Vec<_>>().join(" ")
    }
}

/// A pod whose RuntimeClass has an overhead runs. Neither the overhead nor the sum of the containers' resources, which the kubelet sends
/// with it, changes the pod's cgroup or any below it; after the pod it is still there.
async fn overhead_leaves_the_pods_cgroup_alone(namespace: Namespace) {
    let (cri, image) = node(&namespace).await;
    let mut all = Vec::new();
    for subject @ (handler, program) in SUBJECTS {
        let mut config = cri.pod_config(&pod_name(subject, "overhead"));
        let linux = config.linux.get_or_insert_default();
        let cgroup = PodCgroup::new(&linux.cgroup_parent, &pod_name(subject, "pod"));
        linux.cgroup_parent.clone_from(&cgroup.path);
        linux.overhead = Some(resources(100, 32));
        linux.resources = Some(resources(500, 224));
        let before = cgroup.limits("pod");
        let pod = cri.run_pod_with(config, handler).await;
        let id = ticking(&cri, &pod, program, &image, resources(500, 224)).await;
        assert_eq!(cgroup.limits("pod"), before, "{subject:?}");
        let (pid, pause) = (cri.pid(&id).await, cri.pod_pid(&pod.id).await);
        let mut facts = of_process("container", pid);
        facts.extend(of_process("pause", pause));
        facts.extend(before.clone());
        for (place, pid, id) in [("container", pid, &id), ("pause", pause, &pod.id)] {
            let own = cgroup_of(pid);
            assert_eq!(own, format!("{}/{id}", cgroup.path), "{subject:?} {place}");
        }
        cri.stop(&id, 0).await;
        cri.remove(&id).await;
        assert_eq!(cgroup.limits("pod"), before, "{subject:?}, without its container");
        cri.remove_pod(&pod.id).await;
        assert_eq!(cgroup.limits("pod"), before, "{subject:?}, after the pod");
        facts.insert("left".to_owned(), cgroup.remove());
        all.push((format!("{subject:?}"), facts));
    }
    assert_alike(&all);
    cri.finish().await;
}

fn cgroup_of(pid: u32) -> String {
    cgroup(pid, "memory").or_else(|| cgroup(pid, "")).expect("it has a cgroup")
}

/// The request of `UpdatePodSandboxResources`.
#[derive(Clone, PartialEq, prost::Message)]
struct UpdatePodSandboxResources {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    overhead: Option<LinuxContainerResources>,
    #[prost(message, optional, tag = "3")]
    resources: Option<LinuxContainerResources>,
}

/// A resize of a whole pod is accepted, and changes the limits of no container: the kubelet changes the pod's cgroup by itself.
async fn resize_of_a_pod_changes_no_container(namespace: Namespace) {
    let (cri, image) = node(&namespace).await;
    let mut all = Vec::new();
    for subject @ (_, program) in SUBJECTS {
        let pod = pod(&cri, subject, "pod").await;
        let id = ticking(&cri, &pod, program, &image, resources(200, 64)).await;
        let (pid, pause) = (cri.pid(&id).await, cri.pod_pid(&pod.id).await);
        let seen =
            || [of_process("container", pid), of_process("pause", pause)].into_iter().flatten().collect::<Facts>();
        let before = seen();
        let request = UpdatePodSandboxResources {
            pod_sandbox_id: pod.id.clone(),
            overhead: Some(resources(50, 16)),
            resources: Some(resources(900, 256)),
        };
        cri.call("UpdatePodSandboxResources", request.encode_to_vec()).await.expect("it is accepted");
        assert_eq!(seen(), before, "{subject:?}");
        all.push((format!("{subject:?}"), before));
    }
    assert_alike(&all);
    cri.finish().await;
}
