//! Metrics from the files of a Linux 6.18 with memory pressure and throttling; the disk's number is one that no node has.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::super::tests::{assert_fields, folder, numbered};
use super::*;

const FILES: &[(&str, &str)] = &[
    ("pids.current", "1\n"),
    ("pids.max", "50\n"),
    (
        "cpu.stat",
        "\
nr_periods 10
nr_throttled 6
throttled_time 125076430
nr_bursts 0
burst_time 0
",
    ),
    ("cpuacct.usage", "353513071\n"),
    (
        "cpuacct.stat",
        "\
user 31
system 3
",
    ),
    ("cpuacct.usage_percpu", "26496284 327016787 \n"),
    (
        "blkio.throttle.io_serviced",
        "\
4094:0 Read 9
4094:0 Write 8
4094:0 Sync 17
4094:0 Async 0
4094:0 Discard 0
4094:0 Total 17
Total 17
",
    ),
    (
        "blkio.throttle.io_service_bytes",
        "\
4094:0 Read 3031040
4094:0 Write 22024192
4094:0 Sync 25055232
4094:0 Async 0
4094:0 Discard 0
4094:0 Total 25055232
Total 25055232
",
    ),
    (
        "memory.stat",
        "\
cache 31338496
rss 53248
rss_huge 0
shmem 0
mapped_file 1417216
dirty 2101248
writeback 0
workingset_refault_anon 0
workingset_refault_file 740
swap 0
swapcached 0
pgpgin 1808
pgpgout 999
pgfault 1271
pgmajfault 3
inactive_anon 49152
active_anon 4096
inactive_file 22945792
active_file 8392704
unevictable 0
hierarchical_memory_limit 33554432
hierarchical_memsw_limit 9223372036854771712
total_cache 31338496
total_rss 53248
total_rss_huge 0
total_shmem 0
total_mapped_file 1417216
total_dirty 2101248
total_writeback 0
total_workingset_refault_anon 0
total_workingset_refault_file 740
total_swap 0
total_swapcached 0
total_pgpgin 1808
total_pgpgout 999
total_pgfault 1271
total_pgmajfault 3
total_inactive_anon 49152
total_active_anon 4096
total_inactive_file 22945792
total_active_file 8392704
total_unevictable 0
",
    ),
    (
        "memory.oom_control",
        "\
oom_kill_disable 0
under_oom 0
oom_kill 0
",
    ),
    ("memory.limit_in_bytes", "33554432\n"),
    ("memory.usage_in_bytes", "32555008\n"),
    ("memory.max_usage_in_bytes", "33554432\n"),
    ("memory.failcnt", "113\n"),
    ("memory.memsw.limit_in_bytes", "9223372036854771712\n"),
    ("memory.memsw.usage_in_bytes", "32555008\n"),
    ("memory.memsw.max_usage_in_bytes", "34099200\n"),
    ("memory.memsw.failcnt", "0\n"),
    ("memory.kmem.limit_in_bytes", "9223372036854771712\n"),
    ("memory.kmem.usage_in_bytes", "847872\n"),
    ("memory.kmem.max_usage_in_bytes", "1286144\n"),
    ("memory.kmem.failcnt", "0\n"),
    ("memory.kmem.tcp.limit_in_bytes", "9223372036854771712\n"),
    ("memory.kmem.tcp.usage_in_bytes", "0\n"),
    ("memory.kmem.tcp.max_usage_in_bytes", "0\n"),
    ("memory.kmem.tcp.failcnt", "0\n"),
];

/// Makes a cgroup whose controllers share one folder.
fn cgroup(folder: &Path, controllers: &[&str]) -> Cgroup {
    let folders: Vec<_> = controllers.iter().map(|controller| (controller, folder)).collect();
    serde_json::from_value(json!({ "folders": folders })).unwrap()
}

fn figures(name: &str, controllers: &[&str], files: &[(&str, &str)]) -> Metrics {
    let folder = folder(name, files);
    let metrics = read(&cgroup(&folder, controllers), &["2MB".to_owned(), "1GB".to_owned()]);
    fs::remove_dir_all(folder).unwrap();
    metrics
}

/// Each value is in the same field as with runc's shim.
#[test]
fn real_files() {
    let metrics = figures("real-v1", &["cpu", "cpuacct", "memory", "pids", "blkio"], FILES);
    assert_fields(
        &metrics,
        "pids {current: 1 limit: 50}
        cpu {
            usage {total: 353513071 kernel: 30000000 user: 310000000 per_cpu: 26496284 per_cpu: 327016787}
            throttling {periods: 10 throttled_periods: 6 throttled_time: 125076430}
        }
        memory {
            cache: 31338496 rss: 53248 mapped_file: 1417216 dirty: 2101248 pg_pg_in: 1808 pg_pg_out: 999
            pg_fault: 1271 pg_maj_fault: 3 inactive_anon: 49152 active_anon: 4096 inactive_file: 22945792
            active_file: 8392704 hierarchical_memory_limit: 33554432 hierarchical_swap_limit: 9223372036854771712
            total_cache: 31338496 total_rss: 53248 total_mapped_file: 1417216 total_dirty: 2101248
            total_pg_pg_in: 1808 total_pg_pg_out: 999 total_pg_fault: 1271 total_pg_maj_fault: 3
            total_inactive_anon: 49152 total_active_anon: 4096 total_inactive_file: 22945792 total_active_file: 8392704
            usage {limit: 33554432 usage: 32555008 max: 33554432 failcnt: 113}
            swap {limit: 9223372036854771712 usage: 32555008 max: 34099200}
            kernel {limit: 9223372036854771712 usage: 847872 max: 1286144}
            kernel_tcp {limit: 9223372036854771712}
        }
        blkio {
            io_service_bytes_recursive {op: \"Read\" major: 4094 value: 3031040}
            io_service_bytes_recursive {op: \"Write\" major: 4094 value: 22024192}
            io_service_bytes_recursive {op: \"Sync\" major: 4094 value: 25055232}
            io_service_bytes_recursive {op: \"Async\" major: 4094}
            io_service_bytes_recursive {op: \"Discard\" major: 4094}
            io_service_bytes_recursive {op: \"Total\" major: 4094 value: 25055232}
            io_serviced_recursive {op: \"Read\" major: 4094 value: 9}
            io_serviced_recursive {op: \"Write\" major: 4094 value: 8}
            io_serviced_recursive {op: \"Sync\" major: 4094 value: 17}
            io_serviced_recursive {op: \"Async\" major: 4094}
            io_serviced_recursive {op: \"Discard\" major: 4094}
            io_serviced_recursive {op: \"Total\" major: 4094 value: 17}
        }
        memory_oom_control {}",
    );
}

/// Each line of the kernel's tables of memory goes to its own field.
#[test]
fn memory_line_by_line() {
    let table = |name| numbered(FILES.iter().find(|(file, _)| *file == name).unwrap().1);
    let files = [("memory.stat", &*table("memory.stat")), ("memory.oom_control", &table("memory.oom_control"))];
    let metrics = figures("lines-v1", &["memory"], &files);
    assert_fields(
        &metrics,
        "cpu {usage {} throttling {}}
        memory {
            cache: 1 rss: 2 rss_huge: 3 mapped_file: 5 dirty: 6 writeback: 7 pg_pg_in: 12 pg_pg_out: 13 pg_fault: 14
            pg_maj_fault: 15 inactive_anon: 16 active_anon: 17 inactive_file: 18 active_file: 19 unevictable: 20
            hierarchical_memory_limit: 21 hierarchical_swap_limit: 22 total_cache: 23 total_rss: 24 total_rss_huge: 25
            total_mapped_file: 27 total_dirty: 28 total_writeback: 29 total_pg_pg_in: 34 total_pg_pg_out: 35
            total_pg_fault: 36 total_pg_maj_fault: 37 total_inactive_anon: 38 total_active_anon: 39
            total_inactive_file: 40 total_active_file: 41 total_unevictable: 42
            usage {} swap {} kernel {} kernel_tcp {}
        }
        memory_oom_control {oom_kill_disable: 1 under_oom: 2 oom_kill: 3}",
    );
}

/// No limit of processes is zero; swap, sockets, huge pages and RDMA are reported.
#[test]
fn other_controllers() {
    let metrics = figures(
        "other-v1",
        &["pids", "hugetlb", "rdma", "memory"],
        &[
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("memory.stat", ""),
            ("memory.memsw.failcnt", "1\n"),
            ("memory.kmem.failcnt", "2\n"),
            ("memory.kmem.tcp.usage_in_bytes", "3\n"),
            ("memory.kmem.tcp.max_usage_in_bytes", "4\n"),
            ("memory.kmem.tcp.failcnt", "5\n"),
            ("hugetlb.2MB.usage_in_bytes", "2097152\n"),
            ("hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
            ("hugetlb.2MB.failcnt", "6\n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=20\n"),
            ("rdma.max", "mlx4_0 hca_handle=max hca_object=2000\n"),
        ],
    );
    assert_fields(
        &metrics,
        "hugetlb {usage: 2097152 max: 4194304 failcnt: 6 pagesize: \"2MB\"}
        pids {current: 3}
        cpu {usage {} throttling {}}
        memory {
            usage {} swap {failcnt: 1} kernel {failcnt: 2} kernel_tcp {usage: 3 max: 4 failcnt: 5}
        }
        rdma {
            current {device: \"mlx4_0\" hca_handles: 2 hca_objects: 20}
            limit {device: \"mlx4_0\" hca_handles: 4294967295 hca_objects: 2000}
        }
        memory_oom_control {}",
    );
}

/// A controller that is missing, or whose folder no longer exists, has no message.
#[test]
fn no_files() {
    let controllers = ["cpu", "cpuacct", "memory", "pids", "rdma", "hugetlb"];
    assert_fields(&figures("none-v1", &controllers, &[]), "cpu {usage {} throttling {}}");
    assert_fields(&read(&cgroup(Path::new("/nonexistent"), &controllers), &[]), "cpu {usage {} throttling {}}");
}

/// Disks are reported with the paths of their devices.
#[test]
fn disks_are_named() {
    let disks = "major minor  #blocks  name\n\n 254        0  268435456 vda\n 254        1  268434432 vda1\n";
    assert_eq!(device_path(disks, 254, 0).as_deref(), Some("/dev/vda"));
    assert_eq!(device_path(disks, 254, 1).as_deref(), Some("/dev/vda1"));
    assert_eq!(device_path(disks, 7, 0), None);
}
