//! Metrics from the files of a Linux 6.12 with memory pressure, throttling and a kill of a whole group.

use std::fs;

use super::super::tests::{assert_fields, folder, numbered};
use super::*;

const FILES: &[(&str, &str)] = &[
    ("pids.current", "1\n"),
    ("pids.max", "50\n"),
    (
        "cpu.stat",
        "\
usage_usec 7656952
user_usec 4625855
system_usec 3031097
nice_usec 0
nr_periods 176
nr_throttled 140
throttled_usec 6756175
nr_bursts 5
burst_usec 43488
",
    ),
    (
        "cpu.pressure",
        "\
some avg10=2.34 avg60=5.62 avg300=1.79 total=6045533
full avg10=2.34 avg60=5.62 avg300=1.79 total=6044460
",
    ),
    (
        "memory.stat",
        "\
anon 53248
file 30310400
kernel 729088
kernel_stack 0
pagetables 45056
sec_pagetables 0
percpu 64
sock 0
vmalloc 0
shmem 0
file_mapped 1380352
file_dirty 0
file_writeback 0
swapcached 0
anon_thp 0
file_thp 0
shmem_thp 0
inactive_anon 0
active_anon 53248
inactive_file 28782592
active_file 1527808
unevictable 0
slab_reclaimable 660920
slab_unreclaimable 4968
slab 665888
workingset_refault_anon 0
workingset_refault_file 2681
workingset_activate_anon 0
workingset_activate_file 2681
workingset_restore_anon 0
workingset_restore_file 373
workingset_nodereclaim 0
pgdemote_kswapd 0
pgdemote_direct 0
pgdemote_khugepaged 0
pgpromote_success 0
pgscan 9408
pgsteal 8576
pgscan_kswapd 0
pgscan_direct 9408
pgscan_khugepaged 0
pgsteal_kswapd 0
pgsteal_direct 8576
pgsteal_khugepaged 0
pgfault 9341
pgmajfault 16
pgrefill 0
pgactivate 832
pgdeactivate 0
pglazyfree 0
pglazyfreed 0
swpin_zero 0
swpout_zero 0
thp_fault_alloc 0
thp_collapse_alloc 0
thp_swpout 0
thp_swpout_fallback 0
numa_pages_migrated 0
numa_pte_updates 0
numa_hint_faults 0
",
    ),
    ("memory.current", "31092736\n"),
    ("memory.max", "33554432\n"),
    ("memory.peak", "33554432\n"),
    ("memory.swap.current", "0\n"),
    ("memory.swap.max", "max\n"),
    ("memory.swap.peak", "0\n"),
    (
        "memory.pressure",
        "\
some avg10=0.16 avg60=0.79 avg300=0.28 total=837150
full avg10=0.16 avg60=0.79 avg300=0.28 total=837150
",
    ),
    (
        "memory.events",
        "\
low 0
high 226
max 73
oom 2
oom_kill 2
oom_group_kill 1
",
    ),
    ("rdma.current", ""),
    ("rdma.max", ""),
    ("io.stat", "254:0 rbytes=10981376 wbytes=54456320 rios=30 wios=288 dbytes=0 dios=0\n"),
    (
        "io.pressure",
        "\
some avg10=0.16 avg60=0.75 avg300=0.26 total=912910
full avg10=0.16 avg60=0.75 avg300=0.26 total=912910
",
    ),
    ("hugetlb.2MB.current", "0\n"),
    ("hugetlb.2MB.max", "4194304\n"),
    ("hugetlb.2MB.events", "max 0\n"),
    ("hugetlb.1GB.current", "0\n"),
    ("hugetlb.1GB.max", "0\n"),
    ("hugetlb.1GB.events", "max 0\n"),
];

fn sizes() -> Vec<String> {
    vec!["2MB".to_owned(), "1GB".to_owned()]
}

fn figures(name: &str, files: &[(&str, &str)]) -> Metrics {
    let folder = folder(name, files);
    let metrics = read(&folder, &sizes());
    fs::remove_dir_all(folder).unwrap();
    metrics
}

/// Each value is in the same field as with runc's shim, also in fields that are newer than the message's type.
#[test]
fn real_files() {
    let metrics = figures("real-v2", FILES);
    assert_fields(
        &metrics,
        "pids {current: 1 limit: 50}
        cpu {
            usage_usec: 7656952 user_usec: 4625855 system_usec: 3031097
            nr_periods: 176 nr_throttled: 140 throttled_usec: 6756175
            psi {
                some {avg10: 2.34 avg60: 5.62 avg300: 1.79 total: 6045533}
                full {avg10: 2.34 avg60: 5.62 avg300: 1.79 total: 6044460}
            }
            nr_bursts: 5 burst_usec: 43488
        }
        memory {
            anon: 53248 file: 30310400 slab: 665888 file_mapped: 1380352 active_anon: 53248 inactive_file: 28782592
            active_file: 1527808 slab_reclaimable: 660920 slab_unreclaimable: 4968 pgfault: 9341 pgmajfault: 16
            pgscan: 9408 pgsteal: 8576 pgactivate: 832
            usage: 31092736 usage_limit: 33554432 swap_limit: 18446744073709551615 max_usage: 33554432
            psi {
                some {avg10: 0.16 avg60: 0.79 avg300: 0.28 total: 837150}
                full {avg10: 0.16 avg60: 0.79 avg300: 0.28 total: 837150}
            }
            40: 2681 42: 2681
        }
        rdma {}
        io {
            usage {major: 254 rbytes: 10981376 wbytes: 54456320 rios: 30 wios: 288}
            psi {
                some {avg10: 0.16 avg60: 0.75 avg300: 0.26 total: 912910}
                full {avg10: 0.16 avg60: 0.75 avg300: 0.26 total: 912910}
            }
        }
        hugetlb {max: 4194304 pagesize: \"2MB\"}
        hugetlb {pagesize: \"1GB\"}
        memory_events {high: 226 max: 73 oom: 2 oom_kill: 2 oom_group_kill: 1}",
    );
}

/// Each line of the kernel's largest table goes to its own field.
#[test]
fn memory_line_by_line() {
    let (_, text) = FILES.iter().find(|(file, _)| *file == "memory.stat").unwrap();
    let metrics = figures("lines-v2", &[("memory.stat", &numbered(text))]);
    assert_fields(
        &*metrics.memory,
        "anon: 1 file: 2 kernel_stack: 4 slab: 25 sock: 8 shmem: 10 file_mapped: 11 file_dirty: 12 file_writeback: 13
        anon_thp: 15 inactive_anon: 18 active_anon: 19 inactive_file: 20 active_file: 21 unevictable: 22
        slab_reclaimable: 23 slab_unreclaimable: 24 pgfault: 45 pgmajfault: 46 workingset_nodereclaim: 32
        pgrefill: 47 pgscan: 37 pgsteal: 38 pgactivate: 48 pgdeactivate: 49 pglazyfree: 50 pglazyfreed: 51
        thp_fault_alloc: 54 thp_collapse_alloc: 55 39: 26 40: 27 41: 28 42: 29",
    );
}

/// Kernels before 5.9 have two counters instead of four.
#[test]
fn memory_of_an_old_kernel() {
    let metrics = figures("old-v2", &[("memory.stat", "anon 1\nworkingset_refault 2\nworkingset_activate 3\n")]);
    assert_fields(&*metrics.memory, "anon: 1 workingset_refault: 2 workingset_activate: 3");
}

/// No limit is the largest number; swap, huge pages, RDMA and several disks are reported.
#[test]
fn no_limits() {
    let metrics = figures(
        "no-limits-v2",
        &[
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("memory.stat", ""),
            ("memory.max", "max\n"),
            ("memory.swap.current", "4096\n"),
            ("memory.swap.max", "8192\n"),
            ("memory.swap.peak", "6144\n"),
            ("memory.events", "low 7\nhigh 0\n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=20\nocrdma1 hca_handle=1 hca_object=23\n"),
            ("rdma.max", "mlx4_0 hca_handle=2 hca_object=2000\nocrdma1 hca_handle=3 hca_object=max\n"),
            ("io.stat", "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:0 rbytes=7 wbytes=0 rios=8 wios=0\n"),
            ("hugetlb.2MB.current", "2097152\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("hugetlb.2MB.events", "max 9\n"),
        ],
    );
    assert_fields(
        &metrics,
        "pids {current: 3 limit: 18446744073709551615}
        cpu {}
        memory {
            usage_limit: 18446744073709551615 swap_usage: 4096 swap_limit: 8192 swap_max_usage: 6144
        }
        rdma {
            current {device: \"mlx4_0\" hca_handles: 2 hca_objects: 20}
            current {device: \"ocrdma1\" hca_handles: 1 hca_objects: 23}
            limit {device: \"mlx4_0\" hca_handles: 2 hca_objects: 2000}
            limit {device: \"ocrdma1\" hca_handles: 3 hca_objects: 4294967295}
        }
        io {
            usage {major: 8 minor: 16 rbytes: 1 wbytes: 2 rios: 3 wios: 4}
            usage {major: 8 rbytes: 7 rios: 8}
        }
        hugetlb {current: 2097152 max: 18446744073709551615 pagesize: \"2MB\" failcnt: 9}
        hugetlb {pagesize: \"1GB\"}
        memory_events {low: 7}",
    );
}

/// Without a memory controller there are no events; a missing file counts as zero.
#[test]
fn no_files() {
    let expected = "pids {} cpu {} memory {} rdma {} io {} hugetlb {pagesize: \"2MB\"} hugetlb {pagesize: \"1GB\"}";
    assert_fields(&figures("none-v2", &[]), expected);
    assert_fields(&read(Path::new("/nonexistent"), &sizes()), expected);
}

/// A kernel before 5.13 does not report how long all processes together have waited for a processor.
#[test]
fn pressure_without_full() {
    let text = "some avg10=1.00 avg60=2.50 avg300=0.04 total=5\n";
    let metrics = figures("pressure-v2", &[("cpu.stat", "usage_usec 1\n"), ("cpu.pressure", text)]);
    assert_fields(&*metrics.cpu, "usage_usec: 1 psi {some {avg10: 1 avg60: 2.5 avg300: 0.04 total: 5}}");
}
