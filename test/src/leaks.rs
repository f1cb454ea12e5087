//! Finds the remains of containers and compiles.

use std::fs;
use std::path::{Path, PathBuf};

use containerd_client::services::v1::{ListContainersRequest, ListRequest, ListStatusesRequest, ListTasksRequest};

use crate::{Containerd, Namespace};

/// Lists tasks, containers, leases, ingests, bundles, mounts, cgroups, processes and sockets of a namespace.
///
/// # Panics
/// If containerd does not answer.
pub async fn of_namespace(namespace: &Namespace) -> Vec<String> {
    let mut left = of_api(namespace).await;
    let daemon = namespace.daemon();
    let name = namespace.name();
    for parent in ["root", "state"] {
        let bundles = daemon.folder().join(parent).join("io.containerd.runtime.v2.task").join(name);
        left.extend(entries(&bundles).map(|path| format!("bundle {}", path.display())));
    }
    left.extend(mounts(&format!("/{name}/")));
    left.extend(cgroups(|cgroup| cgroup == name));
    left.extend(
        processes(&daemon.runtime_dir()).filter(|process| process.mentions(name)).map(|process| process.to_string()),
    );
    left
}

/// Lists processes, mounts, cgroups and sockets that are left after all namespaces of a daemon are gone.
pub fn of_daemon(daemon: &Containerd) -> Vec<String> {
    let processes = processes(&daemon.runtime_dir()).filter(|process| !process.command.contains("containerd --config"));
    let mut left: Vec<String> = processes.map(|process| process.to_string()).collect();
    left.extend(mounts(&format!("{}/state/io.containerd.runtime.v2.task/", daemon.folder().display())));
    left.extend(cgroups(|cgroup| is_of(cgroup, daemon.id())));
    left.extend(sockets(&daemon.runtime_dir()));
    left
}

/// Lists the remains of a daemon that has ended, including its folder.
pub fn of_folder(folder: &Path) -> Vec<String> {
    let mut left: Vec<String> = processes(&folder.join("run")).map(|process| process.to_string()).collect();
    left.extend(mounts(&format!("{}/", folder.display())));
    let id = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    left.extend(cgroups(|cgroup| is_of(cgroup, &id)));
    left.extend(folder.exists().then(|| format!("folder {}", folder.display())));
    left
}

/// Lists the parts of a container, by its unique id: processes in its cgroups, cgroups, mounts, and its folder below the runtime folder.
pub fn of_container(daemon: &Containerd, id: &str) -> Vec<String> {
    let mut left: Vec<String> = processes(&daemon.runtime_dir())
        .filter(|process| process.cgroup.split(['/', '\n', ':']).any(|name| name == id))
        .map(|process| process.to_string())
        .collect();
    let bundles = format!("{}/state/io.containerd.runtime.v2.task/", daemon.folder().display());
    left.extend(mounts(&bundles).into_iter().filter(|mount| mount.contains(&format!("/{id}/"))));
    left.extend(cgroups_called(id).map(|cgroup| format!("cgroup {}", cgroup.display())));
    let folders = entries(&daemon.runtime_dir().join("c")).flat_map(|namespace| entries(&namespace));
    let is_of =
        |folder: &PathBuf| folder.file_name().is_some_and(|name| name.to_string_lossy().trim_start_matches('~') == id);
    left.extend(folders.filter(is_of).map(|folder| format!("folder {}", folder.display())));
    left
}

/// Returns the pids of the processes in a container's cgroups.
pub fn processes_of_container(daemon: &Containerd, id: &str) -> Vec<u32> {
    let processes = processes(&daemon.runtime_dir());
    let inside = processes.filter(|process| process.cgroup.split(['/', '\n', ':']).any(|name| name == id));
    inside.map(|process| process.id).collect()
}

/// Returns the pids of the shim daemons of a pod, by the id of its sandbox.
pub fn daemons_of_pod(daemon: &Containerd, pod: &str) -> Vec<u32> {
    let alike = processes(&daemon.runtime_dir()).filter(|process| process.command.trim_end().ends_with(" daemon"));
    let alike: Vec<u32> = alike.filter(|process| process.mentions(pod)).map(|process| process.id).collect();
    let is_forked = |id: &u32| parent(*id).is_some_and(|parent| alike.contains(&parent));
    alike.iter().copied().filter(|id| !is_forked(id)).collect()
}

/// Returns the pids of a namespace's shim daemons, which are the parents of its containers.
pub fn daemons(namespace: &Namespace) -> Vec<u32> {
    shims(namespace).into_iter().filter(|(_, is_forked)| !is_forked).map(|(id, _)| id).collect()
}

/// Returns the pids of the zygotes of a namespace's daemons, and of running helpers.
pub fn zygotes(namespace: &Namespace) -> Vec<u32> {
    shims(namespace).into_iter().filter(|(_, is_forked)| *is_forked).map(|(id, _)| id).collect()
}

/// Lists processes with the command line of a daemon, and whether each was forked from a daemon.
fn shims(namespace: &Namespace) -> Vec<(u32, bool)> {
    let shims = processes(&namespace.daemon().runtime_dir()).filter(|process| process.mentions(namespace.name()));
    let alike = shims.filter(|process| process.command.trim_end().ends_with(" daemon"));
    let alike: Vec<u32> =
        alike.filter(|process| !process.cgroup.contains(namespace.name())).map(|process| process.id).collect();
    let with_parents = alike.iter().filter_map(|id| Some((*id, parent(*id)?)));
    with_parents.map(|(id, parent)| (id, alike.contains(&parent))).collect()
}

/// Returns the parent of a process; `None` if the process has ended.
fn parent(id: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Returns whether a name is that of a namespace of the daemon `id`.
fn is_of(name: &str, id: &str) -> bool {
    name.strip_prefix(id).is_some_and(|rest| rest.starts_with('-'))
}

async fn of_api(namespace: &Namespace) -> Vec<String> {
    let client = namespace.client();
    let answered = "containerd answers";
    let tasks = client.tasks().list(namespace.request(ListTasksRequest::default())).await.expect(answered);
    let containers = client.containers().list(namespace.request(ListContainersRequest::default())).await;
    let leases = client.leases().list(namespace.request(ListRequest::default())).await.expect(answered);
    let ingests = client.content().list_statuses(namespace.request(ListStatusesRequest::default())).await;
    let mut left: Vec<String> = tasks.into_inner().tasks.iter().map(|task| format!("task {}", task.id)).collect();
    left.extend(containers.expect(answered).into_inner().containers.iter().map(|c| format!("container {}", c.id)));
    let leases = leases.into_inner().leases;
    left.extend(leases.iter().filter(|lease| !is_expired(&lease.labels)).map(|lease| format!("lease {}", lease.id)));
    left.extend(ingests.expect(answered).into_inner().statuses.iter().map(|s| format!("ingest {}", s.r#ref)));
    left
}

/// Returns whether a lease has expired. That is no leak: its owner was killed, and the next collection removes it.
fn is_expired(labels: &std::collections::HashMap<String, String>) -> bool {
    let expiry = labels.get("containerd.io/gc.expire").and_then(|text| text.parse::<jiff::Timestamp>().ok());
    expiry.is_some_and(|expiry| expiry < jiff::Timestamp::now())
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Lists the folders in a folder. No file is looked at: a cgroup has dozens.
fn folders(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn mounts(part: &str) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| point.contains(part)).map(|point| format!("mount {point}")).collect()
}

/// Lists the cgroups below those whose name is a matching namespace. The namespace's cgroup itself stays, as with runc.
fn cgroups(is_namespace: impl Fn(&str) -> bool) -> Vec<String> {
    let mut left = Vec::new();
    let mut pending = vec![(PathBuf::from("/sys/fs/cgroup"), false)];
    while let Some((folder, inside)) = pending.pop() {
        for child in folders(&folder) {
            if inside {
                left.push(format!("cgroup {}", child.display()));
            }
            let name = child.file_name().unwrap_or_default().to_string_lossy().into_owned();
            pending.push((child, inside || is_namespace(&name)));
        }
    }
    left
}

/// Removes the empty cgroups of this name at the top of each hierarchy.
pub fn remove_cgroups(name: &str) {
    let root = PathBuf::from("/sys/fs/cgroup");
    for hierarchy in folders(&root).chain([root.clone()]) {
        // Most are not there, and one that is in use stays.
        let _ = fs::remove_dir(hierarchy.join(name));
    }
}

/// Lists the cgroups of this name, in all hierarchies.
fn cgroups_called(name: &str) -> impl Iterator<Item = PathBuf> {
    let mut pending = vec![PathBuf::from("/sys/fs/cgroup")];
    let mut found = Vec::new();
    while let Some(folder) = pending.pop() {
        pending.extend(folders(&folder).inspect(|child| {
            if child.file_name().is_some_and(|own| own == name) {
                found.push(child.clone());
            }
        }));
    }
    found.into_iter()
}

/// A process that was started below a daemon.
struct Leftover {
    id: u32,
    command: String,
    cgroup: String,
}

impl Leftover {
    fn mentions(&self, namespace: &str) -> bool {
        let exactly = |text: &str, separators: &[char]| text.split(separators).any(|part| part == namespace);
        exactly(&self.command, &[' ']) || exactly(&self.cgroup, &['/', '\n', ':'])
    }
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} `{}`", self.id, self.command)
    }
}

/// Lists the processes with a daemon's runtime folder in their environment, and those in cgroups of its namespaces: a container's process
/// shows the container's environment.
fn processes(runtime_dir: &Path) -> impl Iterator<Item = Leftover> + use<> {
    let mark = format!("PREWASI_RUNTIME_DIR={}", runtime_dir.display());
    let daemon = runtime_dir.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let ids = entries(Path::new("/proc")).filter_map(|path| path.file_name()?.to_str()?.parse::<u32>().ok());
    ids.filter_map(move |id| {
        // A process that ends during the look-up is skipped.
        let environment = fs::read(format!("/proc/{id}/environ")).ok()?;
        let cgroup = fs::read_to_string(format!("/proc/{id}/cgroup")).unwrap_or_default();
        let is_marked = environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
        if !is_marked && !cgroup.split(['/', '\n', ':']).any(|name| is_of(name, &daemon)) {
            return None;
        }
        let command = fs::read(format!("/proc/{id}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.is_empty() {
            // A zombie: its parent has to reap it.
            return None;
        }
        Some(Leftover { id, command, cgroup })
    })
}

/// Lists the sockets below the runtime folder.
fn sockets(runtime_dir: &Path) -> Vec<String> {
    use std::os::unix::fs::FileTypeExt;
    let mut left = Vec::new();
    let mut pending = vec![runtime_dir.to_owned()];
    while let Some(folder) = pending.pop() {
        for path in entries(&folder) {
            let Ok(kind) = path.symlink_metadata().map(|meta| meta.file_type()) else { continue };
            if kind.is_socket() {
                left.push(format!("socket {}", path.display()));
            } else if kind.is_dir() {
                pending.push(path);
            }
        }
    }
    left
}
