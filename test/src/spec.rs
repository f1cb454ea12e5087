//! The runtime specification of a container, as similar to that of `ctr run` as tests need it.

use std::collections::BTreeMap;

use prost_types::Any;
use serde_json::{Value, json};

/// Packs a document of the runtime specification, with containerd's name for its type.
pub(crate) fn pack(kind: &str, document: &Value) -> Any {
    let value = serde_json::to_vec(document).expect("JSON can be written");
    Any { type_url: format!("types.containerd.io/opencontainers/runtime-spec/1/{kind}"), value }
}

/// Merges a change into a document: objects by key; other values replace the old ones.
pub(crate) fn merge(document: &mut Value, change: &Value) {
    match (document, change) {
        (Value::Object(members), Value::Object(changes)) => {
            for (name, change) in changes {
                merge(members.entry(name).or_insert(Value::Null), change);
            }
        }
        (document, change) => document.clone_from(change),
    }
}

/// The parts that differ between containers.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) cgroup: String,
    pub(crate) hostname: String,
    pub(crate) mounts: Vec<Value>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Spec {
    /// Writes the specification.
    pub(crate) fn json(&self) -> Value {
        let mut mounts = default_mounts();
        mounts.extend_from_slice(&self.mounts);
        json!({
            "ociVersion": "1.1.0",
            "process": {
                "user": { "uid": 0, "gid": 0, "additionalGids": [0] },
                "args": self.args,
                "env": self.env,
                "cwd": self.cwd,
                "capabilities": {
                    "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
                },
                // Lower than the usual limit, because raising a hard limit needs CAP_SYS_RESOURCE.
                "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
                "noNewPrivileges": true,
            },
            "root": { "path": "rootfs" },
            "hostname": self.hostname,
            "mounts": mounts,
            "annotations": self.annotations,
            "linux": {
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
                "cgroupsPath": self.cgroup,
                "namespaces": [
                    { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "network" },
                ],
                "maskedPaths": [
                    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                    "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
                ],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        })
    }
}

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Returns the mounts of every container.
pub fn default_mounts() -> Vec<Value> {
    let mount = |kind: &str, destination: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    vec![
        mount("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        mount("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
        mount("tmpfs", "/run", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ]
}
