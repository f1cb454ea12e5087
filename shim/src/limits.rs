//! Limits of a running container: what a request says, as the files of its cgroups and the values to be written there.
//!
//! What can be changed while a container runs is changed: memory, processor time, processors, number of processes, and the
//! files of cgroup v2 by name. Everything else in a request must be as the container already has it, because clients
//! send all resources of a container when they change one.

use std::fs;
use std::io;
use std::path::PathBuf;

use libcontainer::oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::cgroup::Cgroup;

/// Default of the kernel for the time in which a quota counts, in microseconds.
const PERIOD: u64 = 100_000;

/// A value for a file of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    /// Of version 1; version 2 has one folder for all.
    controller: &'static str,
    file: String,
    value: String,
}

/// Says why limits cannot be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("cannot change {0} of a container that runs")]
    Fixed(&'static str),
    #[error("cannot set {file} by name: this node has cgroup v1")]
    Unified { file: String },
    #[error("cannot use {name:?} as the name of a file in a cgroup")]
    Name { name: String },
    #[error("cannot limit swap to {swap} bytes: that includes memory, and the limit of memory is {memory}")]
    Swap { swap: i64, memory: String },
    #[error("cannot set {file}: the container has no cgroup of controller {controller}")]
    NoController { controller: &'static str, file: String },
    #[error("cannot write {value:?} to {}", path.display())]
    Write {
        path: PathBuf,
        value: String,
        #[source]
        source: io::Error,
    },
}

impl LimitError {
    /// Says whether the request is at fault rather than the node.
    pub(crate) fn is_input(&self) -> bool {
        match self {
            Self::Fixed(_) | Self::Unified { .. } | Self::Name { .. } | Self::Swap { .. } => true,
            Self::NoController { .. } => false,
            Self::Write { source, .. } => {
                matches!(source.raw_os_error(), Some(nix::libc::EINVAL | nix::libc::ERANGE))
            }
        }
    }
}

/// Changes the limits of a container to those of `wanted`; `own` is what it was made with.
///
/// # Errors
/// [`LimitError`]. What comes before the setting that failed has been changed.
pub(crate) fn apply(cgroup: &Cgroup, wanted: &LinuxResources, own: Option<&LinuxResources>) -> Result<(), LimitError> {
    if let Some(what) = fixed(wanted, own) {
        return Err(LimitError::Fixed(what));
    }
    let settings = match cgroup.unified() {
        Some(_) => unified(wanted)?,
        None => {
            let limit = cgroup.controller("memory").map(|folder| folder.join("memory.limit_in_bytes"));
            let limit = limit.and_then(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
            legacy(wanted, limit.unwrap_or(u64::MAX))?
        }
    };
    settings.into_iter().try_for_each(|setting| setting.write(cgroup))
}

impl Setting {
    fn new(controller: &'static str, file: &str, value: impl ToString) -> Self {
        Self { controller, file: file.to_owned(), value: value.to_string() }
    }

    fn write(self, cgroup: &Cgroup) -> Result<(), LimitError> {
        let folder = cgroup.unified().or_else(|| cgroup.controller(self.controller));
        let Some(folder) = folder else {
            return Err(LimitError::NoController { controller: self.controller, file: self.file });
        };
        let path = folder.join(&self.file);
        // The file is never made: a name that the kernel does not know is an error.
        let written = fs::File::options().write(true).open(&path).and_then(|mut file| {
            use std::io::Write as _;
            file.write_all(self.value.as_bytes())
        });
        written.map_err(|source| LimitError::Write { path, value: self.value, source })
    }
}

/// Names what differs from the container's own and cannot be changed.
fn fixed(wanted: &LinuxResources, own: Option<&LinuxResources>) -> Option<&'static str> {
    fn differs<T: PartialEq + Default>(wanted: &Option<T>, own: Option<&Option<T>>) -> bool {
        let asks = wanted.as_ref().filter(|wanted| **wanted != T::default());
        asks.is_some() && asks != own.and_then(Option::as_ref)
    }
    [
        ("devices", differs(wanted.devices(), own.map(LinuxResources::devices))),
        ("limits of huge pages", differs(wanted.hugepage_limits(), own.map(LinuxResources::hugepage_limits))),
        ("limits of block devices", differs(wanted.block_io(), own.map(LinuxResources::block_io))),
        ("network priorities", differs(wanted.network(), own.map(LinuxResources::network))),
        ("limits of RDMA", differs(wanted.rdma(), own.map(LinuxResources::rdma))),
    ]
    .into_iter()
    .find_map(|(what, differs)| differs.then_some(what))
}

/// Translates for cgroup v1. `limit` is the limit of memory as it is now.
fn legacy(resources: &LinuxResources, limit: u64) -> Result<Vec<Setting>, LimitError> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        settings.extend(legacy_memory(memory, limit)?);
    }
    if let Some(cpu) = resources.cpu() {
        let mut set = |file, value: Option<String>| {
            settings.extend(value.map(|value| Setting::new("cpu", file, value)));
        };
        set("cpu.shares", cpu.shares().filter(|shares| *shares > 0).map(|shares| shares.to_string()));
        set("cpu.cfs_period_us", cpu.period().filter(|period| *period > 0).map(|period| period.to_string()));
        set("cpu.cfs_quota_us", cpu.quota().filter(|quota| *quota != 0).map(|quota| quota.to_string()));
        set("cpu.cfs_burst_us", cpu.burst().map(|burst| burst.to_string()));
        set("cpu.idle", cpu.idle().map(|idle| idle.to_string()));
        set("cpu.rt_period_us", cpu.realtime_period().filter(|period| *period > 0).map(|period| period.to_string()));
        set("cpu.rt_runtime_us", cpu.realtime_runtime().filter(|time| *time != 0).map(|time| time.to_string()));
        settings.extend(cpusets(cpu));
    }
    settings.extend(resources.pids().as_ref().and_then(pids));
    if let Some(file) = resources.unified().iter().flatten().map(|(file, _)| file).next() {
        return Err(LimitError::Unified { file: file.clone() });
    }
    Ok(settings)
}

/// The limit of memory and that of memory with swap: the second is never below the first, not even for a moment.
fn legacy_memory(memory: &LinuxMemory, now: u64) -> Result<Vec<Setting>, LimitError> {
    let of =
        |file, value: Option<i64>| value.filter(|value| *value != 0).map(|value| Setting::new("memory", file, value));
    let (limit, swap) = (memory.limit(), memory.swap());
    check_swap(limit, swap)?;
    let limit_first = swap.is_some_and(|swap| swap > 0 && swap.cast_unsigned() < now);
    let mut settings: Vec<Setting> =
        [of("memory.memsw.limit_in_bytes", swap), of("memory.limit_in_bytes", limit)].into_iter().flatten().collect();
    if limit_first {
        settings.reverse();
    }
    settings.extend(of("memory.soft_limit_in_bytes", memory.reservation()));
    settings.extend(memory.swappiness().map(|value| Setting::new("memory", "memory.swappiness", value)));
    settings
        .extend(memory.disable_oom_killer().map(|value| Setting::new("memory", "memory.oom_control", u8::from(value))));
    Ok(settings)
}

/// Translates for cgroup v2.
fn unified(resources: &LinuxResources) -> Result<Vec<Setting>, LimitError> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        let (limit, swap) = (memory.limit(), memory.swap());
        check_swap(limit, swap)?;
        let number = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
        let of = |file, value: Option<i64>| {
            value.filter(|value| *value != 0).map(|value| Setting::new("memory", file, number(value)))
        };
        // Version 2 counts swap alone.
        let swap = swap.filter(|swap| *swap != 0).map(|swap| match limit {
            Some(limit) if swap > 0 => swap - limit,
            _ => swap,
        });
        settings.extend(swap.map(|swap| Setting::new("memory", "memory.swap.max", number(swap))));
        settings.extend(of("memory.max", limit));
        settings.extend(of("memory.low", memory.reservation()));
    }
    if let Some(cpu) = resources.cpu() {
        let shares = cpu.shares().filter(|shares| *shares > 0);
        settings.extend(shares.map(|shares| Setting::new("cpu", "cpu.weight", weight(shares))));
        let (quota, period) = (cpu.quota().filter(|quota| *quota != 0), cpu.period().filter(|period| *period > 0));
        if quota.is_some() || period.is_some() {
            let quota = quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |quota| quota.to_string());
            settings.push(Setting::new("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(PERIOD))));
        }
        settings.extend(cpu.burst().map(|burst| Setting::new("cpu", "cpu.max.burst", burst)));
        settings.extend(cpu.idle().map(|idle| Setting::new("cpu", "cpu.idle", idle)));
        settings.extend(cpusets(cpu));
    }
    settings.extend(resources.pids().as_ref().and_then(pids));
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') || !file.contains('.') || file.starts_with('.') || file.starts_with("cgroup.") {
            return Err(LimitError::Name { name: file.clone() });
        }
        settings.push(Setting::new("", file, value));
    }
    Ok(settings)
}

fn check_swap(limit: Option<i64>, swap: Option<i64>) -> Result<(), LimitError> {
    let Some(swap) = swap.filter(|swap| *swap > 0) else { return Ok(()) };
    match limit {
        Some(limit) if limit >= 0 && limit <= swap => Ok(()),
        Some(limit) if limit < 0 => Err(LimitError::Swap { swap, memory: "none".to_owned() }),
        Some(limit) => Err(LimitError::Swap { swap, memory: limit.to_string() }),
        None => Err(LimitError::Swap { swap, memory: "not in the request".to_owned() }),
    }
}

fn cpusets(cpu: &LinuxCpu) -> impl Iterator<Item = Setting> {
    let of = |file, value: &Option<String>| {
        value.as_ref().filter(|value| !value.is_empty()).map(|value| Setting::new("cpuset", file, value))
    };
    [of("cpuset.cpus", cpu.cpus()), of("cpuset.mems", cpu.mems())].into_iter().flatten()
}

fn pids(pids: &LinuxPids) -> Option<Setting> {
    match pids.limit() {
        0 => None,
        limit if limit < 0 => Some(Setting::new("pids", "pids.max", "max")),
        limit => Some(Setting::new("pids", "pids.max", limit)),
    }
}

/// Translates shares, 2 to 262144, to a weight, 1 to 10000, as every runtime does.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    fn lines(settings: Result<Vec<Setting>, LimitError>) -> Vec<String> {
        settings.unwrap().into_iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
    }

    /// For version 1, a limit that grows comes after that of memory with swap, one that shrinks before it.
    #[test]
    fn legacy_files() {
        let all = resources(
            r#"{"memory":{"limit":2000,"swap":3000,"reservation":500},"cpu":{"shares":512,"quota":20000,"period":50000,
                "cpus":"0-1","mems":"0"},"pids":{"limit":64}}"#,
        );
        let rest = [
            "memory.soft_limit_in_bytes=500",
            "cpu.shares=512",
            "cpu.cfs_period_us=50000",
            "cpu.cfs_quota_us=20000",
            "cpuset.cpus=0-1",
            "cpuset.mems=0",
            "pids.max=64",
        ];
        let grows = ["memory.memsw.limit_in_bytes=3000", "memory.limit_in_bytes=2000"];
        assert_eq!(lines(legacy(&all, 1000)), [&grows[..], &rest].concat());
        let shrinks = ["memory.limit_in_bytes=2000", "memory.memsw.limit_in_bytes=3000"];
        assert_eq!(lines(legacy(&all, 9000)), [&shrinks[..], &rest].concat());
    }

    /// For version 2, swap is counted without memory, shares become a weight, quota and period one value.
    #[test]
    fn unified_files() {
        let all = resources(
            r#"{"memory":{"limit":2000,"swap":3000,"reservation":500},"cpu":{"shares":1024,"quota":20000,"period":50000,
                "cpus":"0-1"},"pids":{"limit":-1},"unified":{"memory.high":"1500"}}"#,
        );
        let expected = [
            "memory.swap.max=1000",
            "memory.max=2000",
            "memory.low=500",
            "cpu.weight=39",
            "cpu.max=20000 50000",
            "cpuset.cpus=0-1",
            "pids.max=max",
            "memory.high=1500",
        ];
        assert_eq!(lines(unified(&all)), expected);
        assert_eq!(
            lines(unified(&resources(r#"{"memory":{"limit":-1,"swap":-1}}"#))),
            ["memory.swap.max=max", "memory.max=max"]
        );
        assert_eq!(lines(unified(&resources(r#"{"cpu":{"quota":-1}}"#))), ["cpu.max=max 100000"]);
        assert_eq!(lines(unified(&resources(r#"{"cpu":{"period":20000}}"#))), ["cpu.max=max 20000"]);
    }

    /// Zero and absence change nothing.
    #[test]
    fn nothing_changes_by_itself() {
        let none =
            resources(r#"{"memory":{"limit":0},"cpu":{"shares":0,"quota":0,"period":0,"cpus":""},"pids":{"limit":0}}"#);
        assert!(lines(legacy(&none, 0)).is_empty() && lines(unified(&none)).is_empty());
    }

    /// Weights reach from one end to the other.
    #[test]
    fn weights() {
        assert_eq!([0, 2, 1024, 262_144, 1 << 40].map(weight), [1, 1, 39, 10_000, 10_000]);
    }

    /// What contradicts itself, or is no file of a cgroup's controller, is refused.
    #[test]
    fn nonsense_is_refused() {
        for json in [
            r#"{"memory":{"limit":4000,"swap":3000}}"#,
            r#"{"memory":{"swap":3000}}"#,
            r#"{"memory":{"limit":-1,"swap":3000}}"#,
        ] {
            assert!(matches!(legacy(&resources(json), 0), Err(LimitError::Swap { .. })), "{json}");
            assert!(matches!(unified(&resources(json)), Err(LimitError::Swap { .. })), "{json}");
        }
        let by_name = |name: &str| resources(&format!(r#"{{"unified":{{"{name}":"1"}}}}"#));
        for name in ["../cpu.max", "cgroup.procs", "cgroup.kill", "x", ".x"] {
            assert!(matches!(unified(&by_name(name)), Err(LimitError::Name { .. })), "{name}");
        }
        assert!(matches!(legacy(&by_name("cpu.max"), 0), Err(LimitError::Unified { .. })));
    }

    /// What cannot be changed may be named as it is, and only so.
    #[test]
    fn the_rest_stays() {
        let own = resources(r#"{"devices":[{"allow":false,"access":"rwm"}]}"#);
        assert_eq!(fixed(&own, Some(&own)), None);
        assert_eq!(fixed(&resources("{}"), Some(&own)), None);
        let other = resources(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#);
        assert_eq!(fixed(&other, Some(&own)), Some("devices"));
        assert_eq!(fixed(&other, None), Some("devices"));
        let pages = resources(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#);
        assert_eq!(fixed(&pages, Some(&own)), Some("limits of huge pages"));
    }
}
