use super::*;

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

fn lines(settings: Result<Vec<Setting>, LimitError>) -> Vec<String> {
    settings.unwrap().into_iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
}

/// With cgroup v1, a growing memory limit is written after the limit of memory with swap, a shrinking one before it.
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

/// With cgroup v2, swap is counted without memory, shares become a weight, and quota and period become one value.
#[test]
fn unified_files() {
    let all = resources(
        r#"{"memory":{"limit":2000,"swap":3000,"reservation":500},"cpu":{"shares":1024,"quota":20000,"period":50000,
            "cpus":"0-1"},"pids":{"limit":-1},"unified":{"memory.high":"1500"}}"#,
    );
    let expected = [
        "pids.max=max",
        "memory.swap.max=1000",
        "memory.max=2000",
        "memory.low=500",
        "cpu.weight=100",
        "cpu.max=20000 50000",
        "cpuset.cpus=0-1",
        "memory.high=1500",
    ];
    assert_eq!(lines(unified(&all, false)), expected);
    assert_eq!(
        lines(unified(&resources(r#"{"memory":{"limit":-1,"swap":-1}}"#), false)),
        ["memory.swap.max=max", "memory.max=max"]
    );
    assert_eq!(lines(unified(&resources(r#"{"cpu":{"quota":-1}}"#), false)), ["cpu.max=max 100000"]);
    assert_eq!(lines(unified(&resources(r#"{"cpu":{"period":20000}}"#), false)), ["cpu.max=max 20000"]);
}

/// Zero and missing values change nothing.
#[test]
fn nothing_changes_by_itself() {
    let none =
        resources(r#"{"memory":{"limit":0},"cpu":{"shares":0,"quota":0,"period":0,"cpus":""},"pids":{"limit":0}}"#);
    assert!(lines(legacy(&none, 0)).is_empty() && lines(unified(&none, false)).is_empty());
}

/// The conversion of weights maps both ends and the default correctly.
#[test]
fn weights() {
    assert_eq!([0, 2, 512, 1024, 2048, 262_144, 1 << 40].map(weight), [1, 1, 59, 100, 174, 10_000, 10_000]);
    assert_eq!([1, 10, 500, 1000].map(io_weight), [1, 1, 4950, 10_000]);
}

/// systemd counts hundredths of a processor: a quota is rounded up to them, so that the file and the unit agree.
#[test]
fn quotas_of_scopes() {
    let set = |json: &str, is_scope| lines(unified(&resources(json), is_scope));
    let odd = r#"{"cpu":{"quota":12345,"period":100000}}"#;
    assert_eq!(set(odd, false), ["cpu.max=12345 100000"]);
    assert_eq!(set(odd, true), ["cpu.max=13000 100000"]);
    assert_eq!(set(r#"{"cpu":{"quota":50000,"period":100000}}"#, true), ["cpu.max=50000 100000"]);
    assert_eq!(set(r#"{"unified":{"cpu.max":"12345 100000"}}"#, true), ["cpu.max=12345 100000"]);
}

/// Without a memory limit, swap is unlimited or has its own limit.
#[test]
fn swap_without_a_limit_of_memory() {
    let set = |json: &str| lines(unified(&resources(json), false));
    assert_eq!(set(r#"{"memory":{"limit":-1}}"#), ["memory.swap.max=max", "memory.max=max"]);
    assert_eq!(set(r#"{"memory":{"limit":-1,"swap":3000}}"#), ["memory.swap.max=3000", "memory.max=max"]);
    assert_eq!(set(r#"{"memory":{"limit":3000,"swap":3000}}"#), ["memory.swap.max=0", "memory.max=3000"]);
}

/// A new container also gets limits of block devices, huge pages and RDMA.
#[test]
fn first_limits() {
    let all = resources(
        r#"{"blockIO":{"weight":500,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1024}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":7}]},
            "hugepageLimits":[{"pageSize":"2MB","limit":4194304}],"rdma":{"mlx5_1":{"hcaHandles":3}},"pids":{"limit":5}}"#,
    );
    let expected = [
        "io.weight=4950",
        "io.max=8:0 rbps=1024",
        "io.max=8:16 wiops=7",
        "hugetlb.2MB.max=4194304",
        "rdma.max=mlx5_1 hca_handle=3",
        "pids.max=5",
    ];
    assert_eq!(lines(first(Path::new("/nothing"), &all, false)), expected);
}

/// Contradictory limits, and names that are no files of a controller, are refused.
#[test]
fn nonsense_is_refused() {
    for json in [r#"{"memory":{"limit":4000,"swap":3000}}"#, r#"{"memory":{"swap":3000}}"#] {
        assert!(matches!(legacy(&resources(json), 0), Err(LimitError::Swap { .. })), "{json}");
        assert!(matches!(unified(&resources(json), false), Err(LimitError::Swap { .. })), "{json}");
    }
    let by_name = |name: &str| resources(&format!(r#"{{"unified":{{"{name}":"1"}}}}"#));
    for name in ["../cpu.max", "cgroup.procs", "cgroup.kill", "x", ".x"] {
        assert!(matches!(unified(&by_name(name), false), Err(LimitError::Name { .. })), "{name}");
    }
    assert!(matches!(legacy(&by_name("cpu.max"), 0), Err(LimitError::Unified { .. })));
}

/// A fixed value may be repeated in a request, but not changed.
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
