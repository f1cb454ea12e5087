//! The parts of the runtime specification that containers can use on this node. CRI reports them to Kubernetes, and refuses pods that
//! need more.

use std::io;
use std::path::Path;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use nix::errno::Errno;
use nix::libc;
use serde_json::{Value, json};

/// containerd's name for the type of the document.
const TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
/// Mount options that every kernel supports.
const MOUNT_OPTIONS: [&str; 33] = [
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "private",
    "rbind",
    "relatime",
    "ro",
    "rprivate",
    "rshared",
    "rslave",
    "runbindable",
    "rw",
    "shared",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "unbindable",
];
/// Mount options that need `mount_setattr(2)`.
const CHANGED_LATER: [&str; 20] = [
    "idmap",
    "nosymfollow",
    "ratime",
    "rdev",
    "rdiratime",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "rrelatime",
    "rro",
    "rrw",
    "rstrictatime",
    "rsuid",
];
/// Namespaces: the specification's name, and the kernel's.
const NAMESPACES: [(&str, &str); 8] = [
    ("cgroup", "cgroup"),
    ("ipc", "ipc"),
    ("mount", "mnt"),
    ("network", "net"),
    ("pid", "pid"),
    ("time", "time"),
    ("user", "user"),
    ("uts", "uts"),
];

/// Packs the document as containerd does.
///
/// # Errors
/// The document cannot be encoded, which does not happen.
pub(super) fn packed() -> io::Result<Any> {
    Ok(Any { type_url: TYPE.to_owned(), value: serde_json::to_vec(&document())?, ..Any::default() })
}

fn document() -> Value {
    let namespaces: Vec<&str> =
        NAMESPACES.iter().filter(|(_, file)| has_namespace(file)).map(|(name, _)| *name).collect();
    let changes = changes_mounts();
    let later = if changes { &CHANGED_LATER[..] } else { &[] };
    let mount_options: Vec<&str> = MOUNT_OPTIONS.iter().chain(later).copied().collect();
    let mut capabilities: Vec<String> = caps::runtime::procfs_all_supported(None)
        .or_else(|_| Ok::<_, caps::errors::CapsError>(caps::all()))
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect();
    capabilities.sort_unstable();
    let idmap = changes && namespaces.contains(&"user");
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": mount_options,
        "linux": {
            "namespaces": namespaces,
            "capabilities": capabilities,
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": false },
            "seccomp": { "enabled": Path::new("/proc/sys/kernel/seccomp").exists() },
            "apparmor": { "enabled": Path::new("/sys/module/apparmor").exists() },
            "selinux": { "enabled": Path::new("/sys/fs/selinux/enforce").exists() },
            "intelRdt": { "enabled": Path::new("/sys/fs/resctrl/schemata").exists() },
            "mountExtensions": { "idmap": { "enabled": idmap } },
        },
        // An annotation in this list could grant a container more than its specification says.
        "potentiallyUnsafeConfigAnnotations": [],
    })
}

fn has_namespace(file: &str) -> bool {
    Path::new("/proc/self/ns").join(file).exists()
}

/// Returns whether the kernel has `mount_setattr(2)`, which id-mapped mounts need too. The probe changes nothing.
fn changes_mounts() -> bool {
    // SAFETY: the kernel refuses the structure by its size, before it reads it.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, -1, c"".as_ptr(), 0, std::ptr::null::<u8>(), 0) };
    result == 0 || Errno::last() != Errno::ENOSYS
}

#[cfg(test)]
mod tests {
    use libcontainer::oci_spec::runtime::Features;

    use super::*;

    /// The document follows the specification, is sorted, and describes this kernel.
    #[test]
    fn document_is_of_the_specification() {
        let packed = packed().unwrap();
        assert_eq!(packed.type_url, TYPE);
        let features: Features = serde_json::from_slice(&packed.value).unwrap();
        let options = features.mount_options().clone().unwrap();
        assert!(options.contains(&"rshared".to_owned()));
        assert_eq!(options.contains(&"rro".to_owned()), changes_mounts());
        let linux = features.linux().clone().unwrap();
        assert!(linux.capabilities().clone().unwrap().contains(&"CAP_CHOWN".to_owned()));
        assert_eq!(
            linux.namespaces().clone().unwrap().len(),
            NAMESPACES.iter().filter(|(_, file)| has_namespace(file)).count()
        );
        let lists = [&MOUNT_OPTIONS[..], &CHANGED_LATER];
        assert!(lists.iter().all(|list| list.is_sorted()));
    }
}
