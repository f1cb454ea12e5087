//! What a container uses, read from its cgroups and told in containerd's messages for version 1 or 2.
//!
//! Kernels differ in the files that they have: what is missing is left at zero.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField, Result};

use crate::cgroup::Cgroup;

/// Reads the usage of a container.
///
/// # Errors
/// What protobuf says of the message.
pub(crate) fn read(cgroup: &Cgroup) -> Result<Any> {
    match cgroup.unified() {
        Some(folder) => pack("io.containerd.cgroups.v2.Metrics", &unified(folder)),
        None => pack("io.containerd.cgroups.v1.Metrics", &legacy(cgroup)),
    }
}

fn pack(type_url: &str, message: &impl Message) -> Result<Any> {
    Ok(Any { type_url: type_url.to_owned(), value: message.write_to_bytes()?, ..Any::default() })
}

fn legacy(cgroup: &Cgroup) -> v1::Metrics {
    let mut metrics = v1::Metrics::default();
    if let Some(folder) = cgroup.controller("cpuacct") {
        let usage = v1::CPUUsage {
            total: number(folder, "cpuacct.usage"),
            user: number(folder, "cpuacct.usage_user"),
            kernel: number(folder, "cpuacct.usage_sys"),
            per_cpu: list(folder, "cpuacct.usage_percpu"),
            ..v1::CPUUsage::default()
        };
        metrics.cpu = MessageField::some(v1::CPUStat { usage: MessageField::some(usage), ..v1::CPUStat::default() });
    }
    if let Some(folder) = cgroup.controller("cpu") {
        let stat = table(folder, "cpu.stat");
        let throttling = v1::Throttle {
            periods: stat.get("nr_periods"),
            throttled_periods: stat.get("nr_throttled"),
            throttled_time: stat.get("throttled_time"),
            ..v1::Throttle::default()
        };
        metrics.cpu.mut_or_insert_default().throttling = MessageField::some(throttling);
    }
    if let Some(folder) = cgroup.controller("memory") {
        metrics.memory = MessageField::some(legacy_memory(folder));
    }
    if let Some(folder) = cgroup.controller("pids") {
        let (current, limit) = (number(folder, "pids.current"), limit(folder, "pids.max"));
        metrics.pids = MessageField::some(v1::PidsStat { current, limit, ..v1::PidsStat::default() });
    }
    if let Some(folder) = cgroup.controller("blkio") {
        let blkio = v1::BlkIOStat {
            io_service_bytes_recursive: devices(folder, "blkio.throttle.io_service_bytes_recursive"),
            io_serviced_recursive: devices(folder, "blkio.throttle.io_serviced_recursive"),
            ..v1::BlkIOStat::default()
        };
        metrics.blkio = MessageField::some(blkio);
    }
    metrics
}

fn legacy_memory(folder: &Path) -> v1::MemoryStat {
    let entry = |prefix: &str| {
        let file = |name: &str| number(folder, &format!("{prefix}.{name}"));
        MessageField::some(v1::MemoryEntry {
            limit: file("limit_in_bytes"),
            usage: file("usage_in_bytes"),
            max: file("max_usage_in_bytes"),
            failcnt: file("failcnt"),
            ..v1::MemoryEntry::default()
        })
    };
    let stat = table(folder, "memory.stat");
    v1::MemoryStat {
        usage: entry("memory"),
        swap: entry("memory.memsw"),
        kernel: entry("memory.kmem"),
        cache: stat.get("cache"),
        rss: stat.get("rss"),
        rss_huge: stat.get("rss_huge"),
        mapped_file: stat.get("mapped_file"),
        dirty: stat.get("dirty"),
        writeback: stat.get("writeback"),
        pg_fault: stat.get("pgfault"),
        pg_maj_fault: stat.get("pgmajfault"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        hierarchical_memory_limit: stat.get("hierarchical_memory_limit"),
        hierarchical_swap_limit: stat.get("hierarchical_memsw_limit"),
        total_cache: stat.get("total_cache"),
        total_rss: stat.get("total_rss"),
        total_mapped_file: stat.get("total_mapped_file"),
        total_pg_fault: stat.get("total_pgfault"),
        total_pg_maj_fault: stat.get("total_pgmajfault"),
        total_inactive_anon: stat.get("total_inactive_anon"),
        total_active_anon: stat.get("total_active_anon"),
        total_inactive_file: stat.get("total_inactive_file"),
        total_active_file: stat.get("total_active_file"),
        ..v1::MemoryStat::default()
    }
}

fn unified(folder: &Path) -> v2::Metrics {
    let cpu = table(folder, "cpu.stat");
    let events = table(folder, "memory.events");
    v2::Metrics {
        pids: MessageField::some(v2::PidsStat {
            current: number(folder, "pids.current"),
            limit: limit(folder, "pids.max"),
            ..v2::PidsStat::default()
        }),
        cpu: MessageField::some(v2::CPUStat {
            usage_usec: cpu.get("usage_usec"),
            user_usec: cpu.get("user_usec"),
            system_usec: cpu.get("system_usec"),
            nr_periods: cpu.get("nr_periods"),
            nr_throttled: cpu.get("nr_throttled"),
            throttled_usec: cpu.get("throttled_usec"),
            ..v2::CPUStat::default()
        }),
        memory: MessageField::some(unified_memory(folder)),
        memory_events: MessageField::some(v2::MemoryEvents {
            low: events.get("low"),
            high: events.get("high"),
            max: events.get("max"),
            oom: events.get("oom"),
            oom_kill: events.get("oom_kill"),
            ..v2::MemoryEvents::default()
        }),
        ..v2::Metrics::default()
    }
}

fn unified_memory(folder: &Path) -> v2::MemoryStat {
    let stat = table(folder, "memory.stat");
    v2::MemoryStat {
        usage: number(folder, "memory.current"),
        usage_limit: limit(folder, "memory.max"),
        swap_usage: number(folder, "memory.swap.current"),
        swap_limit: limit(folder, "memory.swap.max"),
        anon: stat.get("anon"),
        file: stat.get("file"),
        kernel_stack: stat.get("kernel_stack"),
        slab: stat.get("slab"),
        sock: stat.get("sock"),
        shmem: stat.get("shmem"),
        file_mapped: stat.get("file_mapped"),
        file_dirty: stat.get("file_dirty"),
        file_writeback: stat.get("file_writeback"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        pgfault: stat.get("pgfault"),
        pgmajfault: stat.get("pgmajfault"),
        ..v2::MemoryStat::default()
    }
}

/// A file of `name value` lines.
struct Table(HashMap<String, u64>);

impl Table {
    fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

fn table(folder: &Path, file: &str) -> Table {
    let text = read_file(folder, file);
    let line = |line: &str| line.split_once(' ').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
    Table(text.lines().filter_map(line).collect())
}

fn number(folder: &Path, file: &str) -> u64 {
    read_file(folder, file).trim().parse().unwrap_or_default()
}

/// Reads a limit, in which the word `max` stands for none.
fn limit(folder: &Path, file: &str) -> u64 {
    match read_file(folder, file).trim() {
        "max" => u64::MAX,
        text => text.parse().unwrap_or_default(),
    }
}

fn list(folder: &Path, file: &str) -> Vec<u64> {
    read_file(folder, file).split_whitespace().filter_map(|value| value.parse().ok()).collect()
}

/// Reads lines of `major:minor operation value`.
fn devices(folder: &Path, file: &str) -> Vec<v1::BlkIOEntry> {
    let entry = |line: &str| {
        let mut fields = line.split(' ');
        let (major, minor) = fields.next()?.split_once(':')?;
        Some(v1::BlkIOEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: fields.next()?.to_owned(),
            value: fields.next()?.parse().ok()?,
            ..v1::BlkIOEntry::default()
        })
    };
    read_file(folder, file).lines().filter_map(entry).collect()
}

fn read_file(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files are read in their units, limits without a bound are the largest number, and missing files count as zero.
    #[test]
    fn reads_a_folder() {
        let dir = std::env::temp_dir().join(format!("prewasi-stats-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for (file, text) in [
            ("cpu.stat", "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "anon 1\ninactive_file 7\n"),
            ("pids.current", "3\n"),
        ] {
            fs::write(dir.join(file), text).unwrap();
        }
        let metrics = unified(&dir);
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.system_usec, metrics.cpu.nr_periods), (1500, 500, 0));
        let memory = &metrics.memory;
        assert_eq!((memory.usage, memory.usage_limit, memory.inactive_file), (4096, u64::MAX, 7));
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, 0));
        fs::remove_dir_all(dir).unwrap();
    }

    /// The message of version 1 goes under the name that containerd's clients look for.
    #[test]
    fn names() {
        assert_eq!(read(&Cgroup::default()).unwrap().type_url, "io.containerd.cgroups.v1.Metrics");
    }
}
