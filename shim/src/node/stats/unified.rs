//! Metrics of cgroup v2, where all controllers share a folder.

use std::path::Path;

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats, PidsStat, RdmaEntry,
    RdmaStat,
};
use containerd_shim_protos::protobuf::{Message, MessageField};

use super::files::Files;
use super::rdma;

/// The message's value for no limit.
const UNLIMITED: u64 = u64::MAX;

/// Reads all metrics; `page_sizes` are the sizes of huge pages to report.
pub(super) fn read(folder: &Path, page_sizes: &[String]) -> Metrics {
    let files = &mut Files::of(folder, UNLIMITED);
    Metrics {
        pids: MessageField::some(PidsStat {
            current: files.number("pids.current"),
            limit: files.number("pids.max"),
            ..PidsStat::default()
        }),
        cpu: MessageField::some(cpu(files).unwrap_or_default()),
        memory: MessageField::some(memory(files).unwrap_or_default()),
        rdma: MessageField::some(RdmaStat {
            current: rdma_entries(files, "rdma.current"),
            limit: rdma_entries(files, "rdma.max"),
            ..RdmaStat::default()
        }),
        io: MessageField::some(IOStat {
            usage: io(files),
            psi: pressure(files, "io.pressure").into(),
            ..IOStat::default()
        }),
        hugetlb: hugetlb(files, page_sizes),
        memory_events: memory_events(files).into(),
        ..Metrics::default()
    }
}

fn cpu(files: &mut Files) -> Option<CPUStat> {
    let mut cpu = CPUStat::default();
    for (name, value) in files.table("cpu.stat")? {
        match name {
            "usage_usec" => cpu.usage_usec = value,
            "user_usec" => cpu.user_usec = value,
            "system_usec" => cpu.system_usec = value,
            "nr_periods" => cpu.nr_periods = value,
            "nr_throttled" => cpu.nr_throttled = value,
            "throttled_usec" => cpu.throttled_usec = value,
            "nr_bursts" => cpu.nr_bursts = value,
            "burst_usec" => cpu.burst_usec = value,
            _ => {}
        }
    }
    cpu.psi = pressure(files, "cpu.pressure").into();
    Some(cpu)
}

fn memory(files: &mut Files) -> Option<MemoryStat> {
    let mut memory = MemoryStat::default();
    for (name, value) in files.table("memory.stat")? {
        if let Some(field) = memory_field(&mut memory, name) {
            *field = value;
        } else if let Some(number) = newer_memory_field(name) {
            add(&mut memory, number, value);
        }
    }
    memory.usage = files.number("memory.current");
    memory.usage_limit = files.number("memory.max");
    memory.max_usage = files.number("memory.peak");
    memory.swap_usage = files.number("memory.swap.current");
    memory.swap_limit = files.number("memory.swap.max");
    memory.swap_max_usage = files.number("memory.swap.peak");
    memory.psi = pressure(files, "memory.pressure").into();
    Some(memory)
}

fn memory_field<'a>(memory: &'a mut MemoryStat, name: &str) -> Option<&'a mut u64> {
    Some(match name {
        "anon" => &mut memory.anon,
        "file" => &mut memory.file,
        "kernel_stack" => &mut memory.kernel_stack,
        "slab" => &mut memory.slab,
        "sock" => &mut memory.sock,
        "shmem" => &mut memory.shmem,
        "file_mapped" => &mut memory.file_mapped,
        "file_dirty" => &mut memory.file_dirty,
        "file_writeback" => &mut memory.file_writeback,
        "anon_thp" => &mut memory.anon_thp,
        "inactive_anon" => &mut memory.inactive_anon,
        "active_anon" => &mut memory.active_anon,
        "inactive_file" => &mut memory.inactive_file,
        "active_file" => &mut memory.active_file,
        "unevictable" => &mut memory.unevictable,
        "slab_reclaimable" => &mut memory.slab_reclaimable,
        "slab_unreclaimable" => &mut memory.slab_unreclaimable,
        "pgfault" => &mut memory.pgfault,
        "pgmajfault" => &mut memory.pgmajfault,
        // These two exist until Linux 5.9, which separates anonymous memory from files.
        "workingset_refault" => &mut memory.workingset_refault,
        "workingset_activate" => &mut memory.workingset_activate,
        "workingset_nodereclaim" => &mut memory.workingset_nodereclaim,
        "pgrefill" => &mut memory.pgrefill,
        "pgscan" => &mut memory.pgscan,
        "pgsteal" => &mut memory.pgsteal,
        "pgactivate" => &mut memory.pgactivate,
        "pgdeactivate" => &mut memory.pgdeactivate,
        "pglazyfree" => &mut memory.pglazyfree,
        "pglazyfreed" => &mut memory.pglazyfreed,
        "thp_fault_alloc" => &mut memory.thp_fault_alloc,
        "thp_collapse_alloc" => &mut memory.thp_collapse_alloc,
        _ => return None,
    })
}

/// Returns the number of a field in containerd's message that is newer than the crate's type.
fn newer_memory_field(name: &str) -> Option<u32> {
    Some(match name {
        "workingset_refault_anon" => 39,
        "workingset_refault_file" => 40,
        "workingset_activate_anon" => 41,
        "workingset_activate_file" => 42,
        _ => return None,
    })
}

/// Adds a field that the message's type lacks; zero is omitted, as protobuf requires.
fn add(message: &mut impl Message, number: u32, value: u64) {
    if value != 0 {
        message.mut_unknown_fields().add_varint(number, value);
    }
}

fn memory_events(files: &mut Files) -> Option<MemoryEvents> {
    let mut events = MemoryEvents::default();
    for (name, value) in files.table("memory.events")? {
        match name {
            "low" => events.low = value,
            "high" => events.high = value,
            "max" => events.max = value,
            "oom" => events.oom = value,
            "oom_kill" => events.oom_kill = value,
            "oom_group_kill" => events.oom_group_kill = value,
            _ => {}
        }
    }
    Some(events)
}

/// Parses pressure: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and a line for `full`.
fn pressure(files: &mut Files, file: &str) -> Option<PSIStats> {
    let mut pressure = PSIStats::default();
    for line in files.text(file)?.lines() {
        match line.split_once(' ') {
            Some(("some", fields)) => pressure.some = MessageField::some(pressure_data(fields)),
            Some(("full", fields)) => pressure.full = MessageField::some(pressure_data(fields)),
            _ => {}
        }
    }
    Some(pressure)
}

fn pressure_data(fields: &str) -> PSIData {
    let mut data = PSIData::default();
    for (name, value) in fields.split(' ').filter_map(|field| field.split_once('=')) {
        let average = || value.parse().unwrap_or_default();
        match name {
            "avg10" => data.avg10 = average(),
            "avg60" => data.avg60 = average(),
            "avg300" => data.avg300 = average(),
            "total" => data.total = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    data
}

/// Parses lines of `major:minor rbytes=N wbytes=N rios=N wios=N …`.
fn io(files: &mut Files) -> Vec<IOEntry> {
    files.text("io.stat").unwrap_or_default().lines().filter_map(io_entry).collect()
}

fn io_entry(line: &str) -> Option<IOEntry> {
    let (device, fields) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let mut entry = IOEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IOEntry::default() };
    for (name, value) in fields.split(' ').filter_map(|field| field.split_once('=')) {
        let field = match name {
            "rbytes" => &mut entry.rbytes,
            "wbytes" => &mut entry.wbytes,
            "rios" => &mut entry.rios,
            "wios" => &mut entry.wios,
            _ => continue,
        };
        *field = value.parse().unwrap_or_default();
    }
    Some(entry)
}

fn rdma_entries(files: &mut Files, file: &str) -> Vec<RdmaEntry> {
    let entry = |(device, hca_handles, hca_objects): (&str, _, _)| RdmaEntry {
        device: device.to_owned(),
        hca_handles,
        hca_objects,
        ..RdmaEntry::default()
    };
    rdma(files.text(file).unwrap_or_default()).map(entry).collect()
}

/// Returns one entry for each page size, also if the node does not limit huge pages.
fn hugetlb(files: &mut Files, page_sizes: &[String]) -> Vec<HugeTlbStat> {
    let stat = |size: &String| HugeTlbStat {
        current: files.number(&format!("hugetlb.{size}.current")),
        max: files.number(&format!("hugetlb.{size}.max")),
        failcnt: failures(files, &format!("hugetlb.{size}.events")),
        pagesize: size.clone(),
        ..HugeTlbStat::default()
    };
    page_sizes.iter().map(stat).collect()
}

fn failures(files: &mut Files, file: &str) -> u64 {
    let lines = files.table(file);
    lines.and_then(|mut lines| lines.find(|(name, _)| *name == "max")).map_or(0, |(_, value)| value)
}

#[cfg(test)]
mod tests;
