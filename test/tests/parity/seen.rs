//! The node's view of a container, from its own `/proc` and through its own paths.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Seen;
use super::rows::Place;

const STATUS: [&str; 14] = [
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "SigPnd",
    "SigBlk",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Cpus_allowed_list",
];

/// Reads all of it.
pub(super) fn all(pid: u32, place: &Place) -> Seen {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let read = |file: &str| fs::read_to_string(proc.join(file)).unwrap_or_default();
    let mut seen = Seen::new();
    for (name, value) in read("status").lines().filter_map(|line| line.split_once(':')) {
        if STATUS.contains(&name) {
            seen.insert(name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    for file in ["oom_score_adj", "attr/current", "personality", "timerslack_ns", "coredump_filter"] {
        seen.insert(file.to_owned(), read(file).trim().to_owned());
    }
    for line in read("limits").lines().skip(1) {
        let name = line.get(..26).unwrap_or(line).trim();
        let values: Vec<_> = line.get(26..).unwrap_or_default().split_whitespace().collect();
        seen.insert(format!("limit {name}"), values.join(" "));
    }
    for link in ["cwd", "root"] {
        seen.insert(link.to_owned(), target(&proc.join(link)));
    }
    namespaces(&proc, &mut seen);
    cgroups(&read("cgroup"), place, &mut seen);
    mounts(&read("mountinfo"), place, &mut seen);
    devices(&proc.join("root/dev"), "/dev", &mut seen);
    inside(pid, place, &mut seen);
    for stream in 0..3 {
        let kind = fs::metadata(proc.join(format!("fd/{stream}"))).map(|metadata| kind(&metadata));
        seen.insert(format!("descriptor {stream}"), kind.unwrap_or_default());
    }
    seen
}

fn target(link: &Path) -> String {
    fs::read_link(link).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Says of each namespace whether it is the node's, the neighbour's or another one.
fn namespaces(proc: &Path, seen: &mut Seen) {
    for entry in fs::read_dir(proc.join("ns")).expect("it runs").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let node = target(&Path::new("/proc/self/ns").join(&name));
        let own = if target(&entry.path()) == node { "the node's" } else { "its own" };
        seen.insert(format!("namespace {name}"), own.to_owned());
    }
}

fn cgroups(text: &str, place: &Place, seen: &mut Seen) {
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (name, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        // Nobody's limits lie there on a node with cgroup v1.
        if !name.is_empty() || text.lines().count() == 1 {
            seen.insert(format!("cgroup {name}"), place.normal(path));
        }
    }
}

/// Each mount by its point: the last one there, and how many there are.
fn mounts(text: &str, place: &Place, seen: &mut Seen) {
    for line in text.lines() {
        let Some((first, second)) = line.split_once(" - ") else { continue };
        let first: Vec<&str> = first.split(' ').collect();
        let second: Vec<&str> = second.split(' ').collect();
        let (root, point, options) = (first[3], first[4], first[5]);
        let spread: Vec<_> = first[6..].iter().map(|tag| tag.split(':').next().unwrap_or_default()).collect();
        let large: Vec<_> = second[2].split(',').filter(|option| !is_of_snapshot(option)).collect();
        let root = place.normal(root);
        let value =
            format!("{} {} from {root} of {} {} {}", options, spread.join("+"), second[0], second[1], large.join(","));
        let name = format!("mount {point}");
        let value = match seen.get(&name) {
            Some(below) => format!("{value}; over {below}"),
            None => value,
        };
        seen.insert(name, value);
    }
}

/// Says whether an option names folders of the container's own snapshot.
fn is_of_snapshot(option: &str) -> bool {
    ["lowerdir", "upperdir", "workdir"].iter().any(|name| option.starts_with(name))
}

fn kind(metadata: &fs::Metadata) -> String {
    let kind = metadata.file_type();
    let kinds = [
        (kind.is_dir(), "folder"),
        (kind.is_file(), "file"),
        (kind.is_symlink(), "link"),
        (kind.is_fifo(), "fifo"),
        (kind.is_char_device(), "characters"),
        (kind.is_block_device(), "blocks"),
        (kind.is_socket(), "socket"),
    ];
    kinds.iter().find(|(is, _)| *is).map_or("?", |(_, name)| name).to_owned()
}

fn describe(path: &Path) -> String {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => format!("link to {}", target(path)),
        Ok(metadata) => {
            let device = metadata.rdev();
            let number = if device == 0 { String::new() } else { format!(" {device:x}") };
            format!("{} {:o} {}:{}{number}", kind(&metadata), metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
        }
        Err(error) => format!("none: {}", error.kind()),
    }
}

/// Describes the file at a path of the container.
pub(super) fn path(pid: u32, path: &str) -> String {
    describe(&PathBuf::from(format!("/proc/{pid}/root{path}")))
}

fn devices(folder: &Path, name: &str, seen: &mut Seen) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        seen.insert(format!("device {name}"), describe(&entry.path()));
    }
}

/// Reads the facts that only a process in the namespaces gets.
fn inside(pid: u32, place: &Place, seen: &mut Seen) {
    let script = "uname -n; cat /proc/sys/kernel/domainname /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_default_ttl";
    let pid = pid.to_string();
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["--target", &pid, "--uts", "--ipc", "--net", "sh", "-c", script]);
    let output = nsenter.output().expect("util-linux is there");
    let text = place.normal(&String::from_utf8_lossy(&output.stdout));
    seen.insert("hostname, domain, msgmax, ttl".to_owned(), text.lines().collect::<Vec<_>>().join(" "));
}
