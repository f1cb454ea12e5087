//! Metrics of cgroup v1, where each controller has a separate folder.
//!
//! The message of a missing controller is left out.

use std::fs;

use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl, MemoryStat, Metrics,
    PidsStat, RdmaEntry, RdmaStat, Throttle,
};
use containerd_shim_protos::protobuf::MessageField;

use super::files::Files;
use super::rdma;
use crate::node::cgroup::Cgroup;

/// The message's value for no limit of processes.
const UNLIMITED: u64 = 0;

/// Nanoseconds per tick of the kernel: ticks are hundredths of a second on all architectures that containerd supports.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// Reads all metrics; `page_sizes` are the sizes of huge pages to report.
pub(super) fn read(cgroup: &Cgroup, page_sizes: &[String]) -> Metrics {
    let files = |controller| cgroup.controller(controller).map(|folder| Files::of(folder, UNLIMITED));
    let (memory, oom) = files("memory").as_mut().and_then(memory).unzip();
    Metrics {
        hugetlb: files("hugetlb").map(|mut files| hugetlb(&mut files, page_sizes)).unwrap_or_default(),
        pids: files("pids").as_mut().and_then(pids).into(),
        cpu: MessageField::some(CPUStat {
            usage: MessageField::some(files("cpuacct").as_mut().map(usage).unwrap_or_default()),
            throttling: MessageField::some(files("cpu").as_mut().map(throttling).unwrap_or_default()),
            ..CPUStat::default()
        }),
        memory: memory.into(),
        blkio: files("blkio").as_mut().map(blkio).into(),
        rdma: files("rdma").as_mut().and_then(rdma_stat).into(),
        memory_oom_control: oom.into(),
        ..Metrics::default()
    }
}

fn pids(files: &mut Files) -> Option<PidsStat> {
    let current = files.find("pids.current")?;
    Some(PidsStat { current, limit: files.number("pids.max"), ..PidsStat::default() })
}

fn usage(files: &mut Files) -> CPUUsage {
    let mut usage = CPUUsage { total: files.number("cpuacct.usage"), ..CPUUsage::default() };
    for (name, ticks) in files.table("cpuacct.stat").into_iter().flatten() {
        match name {
            "user" => usage.user = ticks.saturating_mul(NANOSECONDS_PER_TICK),
            "system" => usage.kernel = ticks.saturating_mul(NANOSECONDS_PER_TICK),
            _ => {}
        }
    }
    let text = files.text("cpuacct.usage_percpu").unwrap_or_default();
    usage.per_cpu = text.split_whitespace().filter_map(|value| value.parse().ok()).collect();
    usage
}

fn throttling(files: &mut Files) -> Throttle {
    let mut throttle = Throttle::default();
    for (name, value) in files.table("cpu.stat").into_iter().flatten() {
        match name {
            "nr_periods" => throttle.periods = value,
            "nr_throttled" => throttle.throttled_periods = value,
            "throttled_time" => throttle.throttled_time = value,
            _ => {}
        }
    }
    throttle
}

fn memory(files: &mut Files) -> Option<(MemoryStat, MemoryOomControl)> {
    let mut memory = MemoryStat::default();
    for (name, value) in files.table("memory.stat")? {
        if let Some(field) = memory_field(&mut memory, name) {
            *field = value;
        }
    }
    let mut entry = |prefix: &str| {
        let mut file = |name: &str| files.number(&format!("{prefix}.{name}"));
        MessageField::some(MemoryEntry {
            limit: file("limit_in_bytes"),
            usage: file("usage_in_bytes"),
            max: file("max_usage_in_bytes"),
            failcnt: file("failcnt"),
            ..MemoryEntry::default()
        })
    };
    memory.usage = entry("memory");
    memory.swap = entry("memory.memsw");
    memory.kernel = entry("memory.kmem");
    memory.kernel_tcp = entry("memory.kmem.tcp");
    Some((memory, oom_control(files)))
}

fn memory_field<'a>(memory: &'a mut MemoryStat, name: &str) -> Option<&'a mut u64> {
    Some(match name {
        "cache" => &mut memory.cache,
        "rss" => &mut memory.rss,
        "rss_huge" => &mut memory.rss_huge,
        "mapped_file" => &mut memory.mapped_file,
        "dirty" => &mut memory.dirty,
        "writeback" => &mut memory.writeback,
        "pgpgin" => &mut memory.pg_pg_in,
        "pgpgout" => &mut memory.pg_pg_out,
        "pgfault" => &mut memory.pg_fault,
        "pgmajfault" => &mut memory.pg_maj_fault,
        "inactive_anon" => &mut memory.inactive_anon,
        "active_anon" => &mut memory.active_anon,
        "inactive_file" => &mut memory.inactive_file,
        "active_file" => &mut memory.active_file,
        "unevictable" => &mut memory.unevictable,
        "hierarchical_memory_limit" => &mut memory.hierarchical_memory_limit,
        "hierarchical_memsw_limit" => &mut memory.hierarchical_swap_limit,
        "total_cache" => &mut memory.total_cache,
        "total_rss" => &mut memory.total_rss,
        "total_rss_huge" => &mut memory.total_rss_huge,
        "total_mapped_file" => &mut memory.total_mapped_file,
        "total_dirty" => &mut memory.total_dirty,
        "total_writeback" => &mut memory.total_writeback,
        "total_pgpgin" => &mut memory.total_pg_pg_in,
        "total_pgpgout" => &mut memory.total_pg_pg_out,
        "total_pgfault" => &mut memory.total_pg_fault,
        "total_pgmajfault" => &mut memory.total_pg_maj_fault,
        "total_inactive_anon" => &mut memory.total_inactive_anon,
        "total_active_anon" => &mut memory.total_active_anon,
        "total_inactive_file" => &mut memory.total_inactive_file,
        "total_active_file" => &mut memory.total_active_file,
        "total_unevictable" => &mut memory.total_unevictable,
        _ => return None,
    })
}

fn oom_control(files: &mut Files) -> MemoryOomControl {
    let mut control = MemoryOomControl::default();
    for (name, value) in files.table("memory.oom_control").into_iter().flatten() {
        match name {
            "oom_kill_disable" => control.oom_kill_disable = value,
            "under_oom" => control.under_oom = value,
            "oom_kill" => control.oom_kill = value,
            _ => {}
        }
    }
    control
}

fn hugetlb(files: &mut Files, page_sizes: &[String]) -> Vec<HugetlbStat> {
    let stat = |size: &String| {
        Some(HugetlbStat {
            usage: files.find(&format!("hugetlb.{size}.usage_in_bytes"))?,
            max: files.number(&format!("hugetlb.{size}.max_usage_in_bytes")),
            failcnt: files.number(&format!("hugetlb.{size}.failcnt")),
            pagesize: size.clone(),
            ..HugetlbStat::default()
        })
    };
    page_sizes.iter().filter_map(stat).collect()
}

/// Reads the counters of throttling: I/O schedulers with separate files ended with Linux 5.0.
fn blkio(files: &mut Files) -> BlkIOStat {
    let mut bytes = devices(files, "blkio.throttle.io_service_bytes");
    let mut operations = devices(files, "blkio.throttle.io_serviced");
    name_devices(bytes.iter_mut().chain(&mut operations));
    BlkIOStat { io_service_bytes_recursive: bytes, io_serviced_recursive: operations, ..BlkIOStat::default() }
}

/// Parses lines of `major:minor operation value`; the sum over all devices at the end is left out.
fn devices(files: &mut Files, file: &str) -> Vec<BlkIOEntry> {
    let entry = |line: &str| {
        let mut fields = line.split([' ', ':']);
        Some(BlkIOEntry {
            major: fields.next()?.parse().ok()?,
            minor: fields.next()?.parse().ok()?,
            op: fields.next()?.to_owned(),
            value: fields.next()?.parse().ok()?,
            ..BlkIOEntry::default()
        })
    };
    files.text(file).unwrap_or_default().lines().filter_map(entry).collect()
}

/// Adds the paths of devices that are disks of this node.
fn name_devices<'a>(entries: impl Iterator<Item = &'a mut BlkIOEntry>) {
    let mut entries = entries.peekable();
    if entries.peek().is_none() {
        return;
    }
    let disks = fs::read_to_string("/proc/partitions").unwrap_or_default();
    for entry in entries {
        entry.device = device_path(&disks, entry.major, entry.minor).unwrap_or_default();
    }
}

/// Finds a device in the lines `major minor blocks name` of `/proc/partitions`.
fn device_path(disks: &str, major: u64, minor: u64) -> Option<String> {
    disks.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let numbers = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (numbers == (major, minor)).then(|| fields.nth(1)).flatten().map(|name| format!("/dev/{name}"))
    })
}

fn rdma_stat(files: &mut Files) -> Option<RdmaStat> {
    Some(RdmaStat {
        current: entries(files.text("rdma.current")?),
        limit: entries(files.text("rdma.max")?),
        ..RdmaStat::default()
    })
}

fn entries(text: &str) -> Vec<RdmaEntry> {
    let entry = |(device, hca_handles, hca_objects): (&str, _, _)| RdmaEntry {
        device: device.to_owned(),
        hca_handles,
        hca_objects,
        ..RdmaEntry::default()
    };
    rdma(text).map(entry).collect()
}

#[cfg(test)]
mod tests;
