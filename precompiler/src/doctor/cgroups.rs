//! Checks the node's support for limiting and measuring containers by cgroups: version, driver, systemd, device filters, pressure.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;
use toml::{Table, Value};

use super::Check;

const ROOT: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` of Linux.
const CGROUP2: u64 = 0x6367_7270;
/// Path of containerd's configuration, unless its service names another file.
const CONTAINERD: &str = "/etc/containerd/config.toml";
/// A folder that exists while systemd is the init system.
const SYSTEMD: &str = "/run/systemd/system";
/// systemd's private socket for root, which exists with and without a bus.
const PRIVATE: &str = "/run/systemd/private";
const BUS: &str = "/run/dbus/system_bus_socket";

/// The version of the mounted hierarchies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Each controller has a separate hierarchy; an empty one of version 2 may exist too.
    V1 {
        hybrid: bool,
    },
    V2,
    None,
}

/// Runs all checks of this module.
pub(super) fn check() -> Vec<Check> {
    let version = version(Path::new(ROOT));
    let has_systemd = Path::new(SYSTEMD).is_dir();
    let drivers = fs::read_to_string(CONTAINERD).map_err(|error| error.to_string()).and_then(|text| drivers(&text));
    let mut checks = vec![judge_version(version), judge_drivers(version, has_systemd, drivers)];
    if has_systemd {
        checks.push(judge_bus(&|path| UnixStream::connect(path).map(drop)));
    }
    let loaded = if version == Version::V2 { load_device_filter().map(drop) } else { Ok(()) };
    checks.push(judge_device_filter(version, loaded, Path::new(ROOT)));
    checks.push(judge_pressure(fs::read_to_string("/proc/pressure/cpu")));
    checks
}

fn version(root: &Path) -> Version {
    let is_v2 = |path: &Path| statfs(path).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(CGROUP2));
    if is_v2(root) {
        Version::V2
    } else if root.join("memory").is_dir() || root.join("pids").is_dir() {
        Version::V1 { hybrid: is_v2(&root.join("unified")) }
    } else {
        Version::None
    }
}

fn judge_version(version: Version) -> Check {
    const NAME: &str = "cgroups";
    match version {
        Version::V2 => Check::ok(NAME, "version 2"),
        Version::V1 { hybrid } => Check::warn(
            NAME,
            if hybrid { "version 1, beside an empty hierarchy of version 2" } else { "version 1" },
            "Kubernetes 1.35 and later want version 2: boot with systemd.unified_cgroup_hierarchy=1",
        ),
        Version::None => Check::failed(NAME, format!("not mounted at {ROOT}"), "mount cgroup2 there"),
    }
}

/// Reads from containerd's configuration, of any version, which of CRI's runtimes use systemd for their cgroups, by runtime name.
fn drivers(text: &str) -> Result<BTreeMap<String, bool>, String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let plugins = table.get("plugins").and_then(Value::as_table);
    // The section's name in version 3, and in version 2.
    let cri = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"];
    let cri = cri.iter().find_map(|name| plugins?.get(*name)?.get("containerd")?.get("runtimes")?.as_table());
    let driver = |runtime: &Value| {
        runtime.get("options").and_then(|options| options.get("SystemdCgroup")?.as_bool()).unwrap_or_default()
    };
    Ok(cri.into_iter().flatten().map(|(name, runtime)| (name.clone(), driver(runtime))).collect())
}

/// Compares containerd's configuration with the node. `drivers` maps a runtime to `true` for systemd.
fn judge_drivers(version: Version, has_systemd: bool, drivers: Result<BTreeMap<String, bool>, String>) -> Check {
    const NAME: &str = "cgroup driver";
    let node = if has_systemd { "systemd runs" } else { "systemd does not run" };
    let drivers = match drivers {
        Ok(drivers) if drivers.is_empty() => return Check::ok(NAME, format!("{CONTAINERD} names no runtime; {node}")),
        Ok(drivers) => drivers,
        Err(error) => return Check::ok(NAME, format!("unknown, cannot read {CONTAINERD}: {error}; {node}")),
    };
    let word = |is_systemd: bool| if is_systemd { "systemd" } else { "cgroupfs" };
    let each: Vec<_> = drivers.iter().map(|(name, driver)| format!("{name} {}", word(*driver))).collect();
    let found = format!("{}; {node}", each.join(", "));
    let with_systemd = drivers.values().any(|driver| *driver);
    let without = drivers.values().any(|driver| !*driver);
    if with_systemd && !has_systemd {
        return Check::warn(NAME, found, "take SystemdCgroup = true out of containerd's configuration");
    }
    if with_systemd && version != Version::V2 {
        let hint =
            "with cgroup v1 this shim makes cgroups itself whatever the driver is; use cgroup v2, or cgroupfs for all";
        return Check::warn(NAME, found, hint);
    }
    if with_systemd && without {
        let hint = "Kubernetes has one driver for all of a node's runtimes: give each the same SystemdCgroup";
        return Check::warn(NAME, found, hint);
    }
    if has_systemd && version == Version::V2 && without {
        let hint = "where systemd runs, two managers of one tree of cgroups conflict: set SystemdCgroup = true, \
                    and the kubelet's cgroupDriver to systemd";
        return Check::warn(NAME, found, hint);
    }
    Check::ok(NAME, found)
}

/// Finds the ways to request a scope from systemd. `connect` tries a socket.
fn judge_bus(connect: &dyn Fn(&Path) -> io::Result<()>) -> Check {
    const NAME: &str = "D-Bus";
    let state = |name: &str, path: &str| match connect(&PathBuf::from(path)) {
        Ok(()) => (true, format!("{name} answers")),
        Err(error) => (false, format!("{name} does not ({path}: {error})")),
    };
    let (bus, private) = (state("the system bus", BUS), state("systemd's private socket", PRIVATE));
    let found = format!("{}, {}", bus.1, private.1);
    if bus.0 || private.0 {
        return Check::ok(NAME, found);
    }
    Check::warn(NAME, found, "the driver systemd needs one of them: install dbus, or run as root")
}

/// Loads the smallest possible device filter, without attaching it; the descriptor's end unloads it.
fn load_device_filter() -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    /// `r0 = 1; exit`: every access is allowed.
    static PROGRAM: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
    /// The beginning of the kernel's `union bpf_attr`; omitted fields count as zero.
    #[repr(C)]
    struct Load {
        kind: u32,
        instructions: u32,
        program: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        instructions: 2,
        program: PROGRAM.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the structure and the data that it points to outlive the call, which only reads them.
    let descriptor = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    match i32::try_from(descriptor) {
        // SAFETY: the call has just made this descriptor, and no other value owns it.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns whether device access of containers can be restricted. `loaded` is the result of loading a filter, which only version 2 needs.
fn judge_device_filter(version: Version, loaded: io::Result<()>, root: &Path) -> Check {
    const NAME: &str = "device filters";
    match version {
        Version::V2 => match loaded {
            Ok(()) => Check::ok(NAME, "programs of type cgroup_device can be loaded"),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Check::warn(
                NAME,
                format!("cannot load a program of type cgroup_device: {error}"),
                "run as root; containerd's service needs CAP_BPF, or CAP_SYS_ADMIN",
            ),
            Err(error) => Check::failed(
                NAME,
                format!("cannot load a program of type cgroup_device: {error}"),
                "use a kernel with CONFIG_CGROUP_BPF: without it no container can be kept from devices",
            ),
        },
        Version::V1 { .. } if root.join("devices").is_dir() => Check::ok(NAME, "the controller devices is there"),
        Version::V1 { .. } | Version::None => {
            Check::failed(NAME, "the controller devices is not mounted", "mount it at /sys/fs/cgroup/devices")
        }
    }
}

/// Judges pressure stall information, read from `/proc/pressure/cpu`.
fn judge_pressure(read: io::Result<String>) -> Check {
    const NAME: &str = "PSI";
    match read {
        Ok(_) => Check::ok(NAME, "pressure is measured"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Check::warn(
            NAME,
            "not available",
            "figures of containers lack pressure: use a kernel with CONFIG_PSI, booted with psi=1",
        ),
        Err(error) => {
            Check::warn(NAME, format!("switched off ({error})"), "figures of containers lack pressure: boot with psi=1")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Health::{Failed, Ok as Fine, Warn};
    use super::*;

    const V1: Version = Version::V1 { hybrid: false };

    fn map(runtimes: &[(&str, bool)]) -> Result<BTreeMap<String, bool>, String> {
        Ok(runtimes.iter().map(|(name, driver)| ((*name).to_owned(), *driver)).collect())
    }

    /// The driver of each runtime is read from containerd's configuration of version 2 and 3. A runtime without a setting uses cgroupfs,
    /// a configuration without CRI has no runtimes, and invalid TOML is an error.
    #[test]
    fn drivers_are_read() {
        for plugin in ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"] {
            let text = format!(
                "[plugins.'{plugin}'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\n\
                 [plugins.'{plugin}'.containerd.runtimes.runc.options]\nSystemdCgroup = true\n\
                 [plugins.'{plugin}'.containerd.runtimes.wasmtime]\nruntime_type = 'io.containerd.wasmtime.v1'\n"
            );
            assert_eq!(drivers(&text), map(&[("runc", true), ("wasmtime", false)]), "{plugin}");
        }
        assert_eq!(drivers("version = 3\n"), map(&[]));
        assert!(drivers("[[").is_err());
    }

    /// A driver that the node does not support, or that differs between runtimes, is a warning with a hint.
    #[test]
    fn drivers_are_judged() {
        let health = |version, systemd, runtimes: &[(&str, bool)]| {
            let check = judge_drivers(version, systemd, map(runtimes));
            assert_eq!(check.hint.is_some(), check.health != Fine, "{check:?}");
            check.health
        };
        assert_eq!(health(Version::V2, true, &[("runc", true), ("wasmtime", true)]), Fine);
        assert_eq!(health(Version::V2, true, &[("runc", true), ("wasmtime", false)]), Warn);
        assert_eq!(health(Version::V2, true, &[("wasmtime", false)]), Warn);
        assert_eq!(health(Version::V2, false, &[("wasmtime", false)]), Fine);
        assert_eq!(health(Version::V2, false, &[("wasmtime", true)]), Warn);
        assert_eq!(health(V1, true, &[("wasmtime", true)]), Warn);
        assert_eq!(health(V1, true, &[("wasmtime", false)]), Fine);
        assert_eq!(health(Version::V2, true, &[]), Fine);
        let check = judge_drivers(Version::V2, true, map(&[("runc", true), ("wasmtime", false)]));
        assert_eq!(check.found, "runc systemd, wasmtime cgroupfs; systemd runs");
        let check = judge_drivers(V1, false, Err("gone".to_owned()));
        assert_eq!(check.found, "unknown, cannot read /etc/containerd/config.toml: gone; systemd does not run");
    }

    /// Version 1 is a warning, no cgroups at all a failure.
    #[test]
    fn versions_are_judged() {
        assert_eq!([Version::V2, V1, Version::None].map(|version| judge_version(version).health), [Fine, Warn, Failed]);
        let empty = tempfile::tempdir().expect("temp dir");
        assert_eq!(version(empty.path()), Version::None);
        fs::create_dir(empty.path().join("memory")).expect("the folder is ours");
        assert_eq!(version(empty.path()), V1);
    }

    /// One of the two ways to systemd is sufficient; without any there is a hint.
    #[test]
    fn buses_are_judged() {
        let with = |there: &'static [&str]| {
            let connect = move |path: &Path| match there.iter().any(|known| path == Path::new(known)) {
                true => Ok(()),
                false => Err(io::ErrorKind::NotFound.into()),
            };
            judge_bus(&connect)
        };
        assert_eq!([with(&[BUS]), with(&[PRIVATE]), with(&[BUS, PRIVATE])].map(|check| check.health), [Fine; 3]);
        let check = with(&[PRIVATE]);
        assert!(check.found.starts_with("the system bus does not (/run/dbus/system_bus_socket: "), "{}", check.found);
        assert!(check.found.ends_with(", systemd's private socket answers"), "{}", check.found);
        let check = with(&[]);
        assert_eq!((check.health, check.hint.is_some()), (Warn, true));
    }

    /// With version 2 a filter that cannot be loaded is a failure, or a warning for a user without the privilege. With version 1 the
    /// controller counts.
    #[test]
    fn device_filters_are_judged() {
        let root = tempfile::tempdir().expect("temp dir");
        let health = |version, loaded: Result<(), i32>| {
            judge_device_filter(version, loaded.map_err(io::Error::from_raw_os_error), root.path()).health
        };
        assert_eq!(health(Version::V2, Ok(())), Fine);
        assert_eq!(health(Version::V2, Err(libc::EPERM)), Warn);
        assert_eq!(health(Version::V2, Err(libc::EINVAL)), Failed);
        assert_eq!(health(V1, Ok(())), Failed);
        fs::create_dir(root.path().join("devices")).expect("the folder is ours");
        assert_eq!(health(V1, Ok(())), Fine);
    }

    /// A filter is really loaded; the kernel refuses it only to a user without privileges.
    #[test]
    fn device_filter_is_tried() {
        let loaded = load_device_filter().map(drop).map_err(|error| error.raw_os_error());
        assert!(matches!(loaded, Ok(()) | Err(Some(libc::EPERM))), "{loaded:?}");
    }

    /// Pressure is measured, disabled, or unknown to the kernel.
    #[test]
    fn pressure_is_judged() {
        assert_eq!(judge_pressure(Ok("some avg10=0.00".to_owned())).health, Fine);
        let off = judge_pressure(Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)));
        assert!(off.found.starts_with("switched off"), "{off:?}");
        assert_eq!(judge_pressure(Err(io::ErrorKind::NotFound.into())).found, "not available");
    }
}
