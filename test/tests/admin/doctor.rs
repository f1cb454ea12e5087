//! The report of `doctor` about a node.

use std::path::Path;
use std::time::Duration;

use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};

use super::{parse, text};

pub(super) fn cases() -> Vec<Case> {
    vec![case!(doctor_finds_this_node_healthy), case!(doctor_says_what_is_missing)]
}

/// On a node where the tests run `doctor` finds nothing that fails.
async fn doctor_finds_this_node_healthy(namespace: Namespace) {
    let output = namespace.prewasi("doctor", &[]).success();
    let series = namespace.daemon().series().to_string();
    let version = series.trim_start_matches("containerd-");
    for line in [
        format!("OK      containerd: version {version}"),
        "OK      image import: `ctr images import` and `pull` take wasm with --all-platforms".to_owned(),
        "OK      content store: ".to_owned(),
        "OK      containerd-shim-wasmtime-v1: ".to_owned(),
        format!("OK      runtime folder: {} can be written to", namespace.daemon().runtime_dir().display()),
        "OK      seccomp: ".to_owned(),
        "OK      compile with wasmtime: a module in the sandbox took ".to_owned(),
    ] {
        assert!(output.stdout.lines().any(|found| found.starts_with(&line)), "no line {line:?} in {output}");
    }
}

/// `doctor` reports a missing containerd, shim and runtime folder, and also how containers are confined and measured. Each failed check has
/// a hint.
async fn doctor_says_what_is_missing(namespace: Namespace) {
    let mut command = namespace.daemon().command(prewasi_test::home::program("prewasi"));
    command.args(["doctor", "--json", "--address"]).arg(namespace.folder().join("nobody.sock"));
    command.env("PATH", namespace.folder()).env("PREWASI_RUNTIME_DIR", "/proc/none");
    let output = prewasi_test::process::run(&mut command, Duration::from_secs(60)).fails_with(1);
    let checks = parse(&output.stdout)["checks"].as_array().expect("a list").clone();
    let failed: Vec<_> = checks.iter().filter(|check| check["health"] == "failed").collect();
    let names: Vec<_> = failed.iter().map(|check| text(&check["name"])).collect();
    assert_eq!(names, ["containerd", "containerd-shim-wasmtime-v1", "runtime folder"]);
    let names: Vec<_> = checks.iter().map(|check| text(&check["name"])).collect();
    for name in ["user namespaces", "cgroups", "cgroup driver", "device filters", "PSI", "AppArmor", "SELinux"] {
        assert!(names.iter().any(|known| known == name), "no check of {name} in {names:?}");
    }
    let bus = names.iter().any(|name| name == "D-Bus");
    assert_eq!(bus, Path::new("/run/systemd/system").is_dir(), "D-Bus matters where systemd runs: {names:?}");
    let lack: Vec<_> = checks.iter().filter(|check| check["health"] != "ok" && !check["hint"].is_string()).collect();
    assert!(lack.is_empty(), "no hint: {lack:#?}");
    let cgroups = checks.iter().find(|check| check["name"] == "cgroups").map(|check| text(&check["found"]));
    // This file is there in version 2 alone.
    let version = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "version 2" } else { "version 1" };
    assert!(cgroups.as_ref().is_some_and(|found| found.starts_with(version)), "{cgroups:?} is not {version}");
}
