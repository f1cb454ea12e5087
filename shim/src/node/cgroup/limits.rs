//! Limits of a container: the resources of a spec or a request, translated to cgroup files and their values.
//!
//! With cgroup v2 this module writes all values, when a container is made and when they change. libcgroups 0.7 converts several of them
//! wrongly with the systemd driver. With v1 libcgroups writes the first ones.
//!
//! While a container runs, a request can change memory, processor time, processors, number of processes, and files of cgroup v2 by name.
//! All other values in a request must equal the container's, because clients send all resources of a container to change one. The
//! conversions from v1's values are those of runc 1.3.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use super::Cgroup;

/// The kernel's default period of a quota, in microseconds.
const PERIOD: u64 = 100_000;

/// systemd counts processor time in steps of this many microseconds per second, and rounds down.
const STEP: u64 = 10_000;

/// A value for a cgroup file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The controller in cgroup v1; v2 has one folder for all.
    controller: &'static str,
    pub(super) file: String,
    pub(super) value: String,
}

/// The reason why limits cannot be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("cannot change {0} of a container that runs")]
    Fixed(&'static str),
    #[error("cannot set {file} by name: this node has cgroup v1")]
    Unified { file: String },
    #[error("cannot use {name:?} as the name of a file in a cgroup")]
    Name { name: String },
    #[error(
        "cannot limit memory to {limit} bytes: the container uses {usage} bytes, and the request has `checkBeforeUpdate`"
    )]
    InUse { limit: i64, usage: u64 },
    #[error("cannot limit swap to {swap} bytes: this limit includes memory, whose own limit is {memory}")]
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
    /// Returns whether the request is at fault rather than the node.
    pub(crate) fn is_input(&self) -> bool {
        match self {
            Self::Fixed(_) | Self::Unified { .. } | Self::Name { .. } | Self::Swap { .. } => true,
            Self::NoController { .. } | Self::InUse { .. } => false,
            Self::Write { source, .. } => {
                matches!(source.raw_os_error(), Some(nix::libc::EINVAL | nix::libc::ERANGE))
            }
        }
    }
}

/// Translates the new limits of a running container; `own` are the limits that it was made with.
///
/// # Errors
/// [`LimitError`] if the request contradicts itself, or changes a fixed value.
pub(crate) fn changes(
    cgroup: &Cgroup,
    wanted: &LinuxResources,
    own: Option<&LinuxResources>,
) -> Result<Vec<Setting>, LimitError> {
    if let Some(what) = fixed(wanted, own) {
        return Err(LimitError::Fixed(what));
    }
    match cgroup.unified() {
        Some(folder) => {
            check_usage(folder, wanted)?;
            unified(wanted, cgroup.unit().is_some())
        }
        None => {
            let limit = cgroup.controller("memory").map(|folder| folder.join("memory.limit_in_bytes"));
            let limit = limit.and_then(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
            legacy(wanted, limit.unwrap_or(u64::MAX))
        }
    }
}

/// Translates all limits of a new container in a folder of cgroup v2. `is_scope` means that systemd manages it.
///
/// # Errors
/// [`LimitError`] if they contradict each other.
pub(super) fn first(folder: &Path, resources: &LinuxResources, is_scope: bool) -> Result<Vec<Setting>, LimitError> {
    let mut settings = io(folder, resources);
    settings.extend(huge_pages(folder, resources));
    for (device, limit) in resources.rdma().iter().flatten() {
        let part = |name: &str, value: Option<u32>| value.map(|value| format!(" {name}={value}")).unwrap_or_default();
        let parts = part("hca_handle", limit.hca_handles()) + &part("hca_object", limit.hca_objects());
        settings.push(Setting::new("rdma", "rdma.max", format!("{device}{parts}")));
    }
    settings.extend(unified(resources, is_scope)?);
    Ok(settings)
}

/// Writes settings to the files of a container's cgroups.
///
/// # Errors
/// [`LimitError`] names file and value. Settings before it have been written.
pub(crate) fn write(settings: Vec<Setting>, cgroup: &Cgroup) -> Result<(), LimitError> {
    // The kernel refuses a burst that exceeds the current quota, even if a longer quota follows.
    let mut late = None;
    for setting in settings {
        match setting.clone().write(cgroup) {
            Err(error) if setting.file == "cpu.max.burst" && error.is_input() => late = Some(setting),
            other => other?,
        }
    }
    late.map_or(Ok(()), |setting| setting.write(cgroup))
}

impl Setting {
    #[cfg(test)]
    pub(super) fn named(file: &str, value: &str) -> Self {
        Self::new("", file, value)
    }

    fn new(controller: &'static str, file: &str, value: impl ToString) -> Self {
        Self { controller, file: file.to_owned(), value: value.to_string() }
    }

    fn write(self, cgroup: &Cgroup) -> Result<(), LimitError> {
        let folder = cgroup.unified().or_else(|| cgroup.controller(self.controller));
        let Some(folder) = folder else {
            return Err(LimitError::NoController { controller: self.controller, file: self.file });
        };
        let path = folder.join(&self.file);
        // The file is never created: a name that the kernel does not know is an error.
        let written = fs::File::options().write(true).open(&path).and_then(|mut file| {
            use std::io::Write as _;
            file.write_all(self.value.as_bytes())
        });
        match written {
            // A node without swap has no file for it, and needs no limit.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_no_swap() => Ok(()),
            other => other.map_err(|source| LimitError::Write { path, value: self.value, source }),
        }
    }

    fn is_no_swap(&self) -> bool {
        self.file == "memory.swap.max" && matches!(self.value.as_str(), "0" | "max")
    }
}

/// Returns the name of a fixed value that the request would change.
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

/// Translates limits for cgroup v1. `limit` is the current memory limit.
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

/// Translates the limits of memory, and of memory with swap: the second is never below the first, not even for a moment.
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

/// Translates limits for cgroup v2.
fn unified(resources: &LinuxResources, is_scope: bool) -> Result<Vec<Setting>, LimitError> {
    let mut settings = Vec::new();
    settings.extend(resources.pids().as_ref().and_then(pids));
    if let Some(memory) = resources.memory() {
        settings.extend(unified_memory(memory)?);
    }
    if let Some(cpu) = resources.cpu() {
        settings.extend(unified_cpu(cpu, is_scope));
        settings.extend(cpusets(cpu));
    }
    let mut named: Vec<_> = resources.unified().iter().flatten().collect();
    named.sort_unstable();
    for (file, value) in named {
        if file.contains('/') || !file.contains('.') || file.starts_with('.') || file.starts_with("cgroup.") {
            return Err(LimitError::Name { name: file.clone() });
        }
        settings.push(Setting::new("", file, value.trim()));
    }
    Ok(settings)
}

fn unified_memory(memory: &LinuxMemory) -> Result<Vec<Setting>, LimitError> {
    let number = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    let set = |file, value: Option<i64>| value.map(|value| Setting::new("memory", file, number(value)));
    let given = |value: Option<i64>| value.filter(|value| *value != 0);
    let limit = given(memory.limit());
    // cgroup v2 counts swap separately.
    let swap = match (limit, given(memory.swap())) {
        (Some(limit), None) if limit < 0 => Some(-1),
        (_, None) => None,
        (_, Some(swap)) if swap < 0 => Some(-1),
        (Some(limit), Some(swap)) if limit < 0 => Some(swap),
        (limit, Some(swap)) => {
            check_swap(limit, Some(swap))?;
            Some(swap - limit.unwrap_or_default())
        }
    };
    let settings =
        [set("memory.swap.max", swap), set("memory.max", limit), set("memory.low", given(memory.reservation()))];
    Ok(settings.into_iter().flatten().collect())
}

fn unified_cpu(cpu: &LinuxCpu, is_scope: bool) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |file, value: Option<String>| settings.extend(value.map(|value| Setting::new("cpu", file, value)));
    set("cpu.idle", cpu.idle().map(|idle| idle.to_string()));
    set("cpu.weight", cpu.shares().filter(|shares| *shares > 0).map(|shares| weight(shares).to_string()));
    set("cpu.max.burst", cpu.burst().map(|burst| burst.to_string()));
    let (quota, period) = (cpu.quota().filter(|quota| *quota != 0), cpu.period().filter(|period| *period > 0));
    if quota.is_some() || period.is_some() {
        let period = period.unwrap_or(PERIOD);
        let quota = quota.and_then(|quota| u64::try_from(quota).ok());
        let quota = quota.map(|quota| if is_scope { whole_steps(quota, period) } else { quota });
        let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        set("cpu.max", Some(format!("{quota} {period}")));
    }
    settings
}

/// Rounds a quota up to systemd's steps, so that systemd does not change it later.
fn whole_steps(quota: u64, period: u64) -> u64 {
    per_second(quota, period).saturating_mul(period) / 1_000_000
}

/// Returns the microseconds of processor time per second, as systemd counts them.
pub(super) fn per_second(quota: u64, period: u64) -> u64 {
    (quota.saturating_mul(1_000_000) / period.max(1)).next_multiple_of(STEP)
}

/// Translates limits of block devices for cgroup v2.
fn io(folder: &Path, resources: &LinuxResources) -> Vec<Setting> {
    let Some(io) = resources.block_io() else { return Vec::new() };
    let mut settings = Vec::new();
    let bfq = folder.join("io.bfq.weight").exists();
    if let Some(weight) = io.weight().filter(|weight| *weight > 0) {
        settings.push(if bfq {
            Setting::new("io", "io.bfq.weight", weight)
        } else {
            Setting::new("io", "io.weight", io_weight(weight))
        });
    }
    for device in io.weight_device().iter().flatten().filter(|_| bfq) {
        let weight = device.weight().unwrap_or_default();
        settings.push(Setting::new("io", "io.bfq.weight", format!("{}:{} {weight}", device.major(), device.minor())));
    }
    let lists = [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ];
    for (name, list) in lists {
        for device in list.iter().flatten() {
            let value = format!("{}:{} {name}={}", device.major(), device.minor(), device.rate());
            settings.push(Setting::new("io", "io.max", value));
        }
    }
    settings
}

fn huge_pages(folder: &Path, resources: &LinuxResources) -> Vec<Setting> {
    let limits = resources.hugepage_limits().iter().flatten();
    let files = limits.flat_map(|limit| {
        let size = limit.page_size();
        [(format!("hugetlb.{size}.max"), limit.limit()), (format!("hugetlb.{size}.rsvd.max"), limit.limit())]
    });
    // Kernels before 5.7 do not count reservations.
    let files = files.filter(|(file, _)| !file.contains(".rsvd.") || folder.join(file).exists());
    files.map(|(file, limit)| Setting::new("hugetlb", &file, limit)).collect()
}

/// Refuses a limit below the current usage, if the request asks for that check.
fn check_usage(folder: &Path, resources: &LinuxResources) -> Result<(), LimitError> {
    let Some(memory) = resources.memory().as_ref().filter(|memory| memory.check_before_update() == Some(true)) else {
        return Ok(());
    };
    let usage = fs::read_to_string(folder.join("memory.current")).ok().and_then(|text| text.trim().parse::<u64>().ok());
    match (memory.limit().filter(|limit| *limit > 0), usage) {
        (Some(limit), Some(usage)) if usage > limit.unsigned_abs() => Err(LimitError::InUse { limit, usage }),
        _ => Ok(()),
    }
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

/// Converts shares, 2 to 262144, to a weight, 1 to 10000: a curve through both ends and the defaults, 1024 and 100. runc 1.3.2 and
/// libcgroups 0.7 use the same one (kubernetes issue 131216).
fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        3..262_144 => {
            let power = (shares as f64).log2();
            let exponent = (power * power + 125.0 * power) / 612.0 - 7.0 / 34.0;
            // A weight is far below the maximum of a u64.
            10f64.powf(exponent).ceil() as u64
        }
        _ => 10_000,
    }
}

/// Converts a weight for block devices, 10 to 1000, to one of cgroup v2, 1 to 10000.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}

#[cfg(test)]
mod tests;
