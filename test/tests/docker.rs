//! Containers of Docker Engine, with the containerd image store and without: the facts that Docker leaves for a shim, and the requests of
//! its users. If possible, a native program under runc gets the same requests.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use oci_tar_builder::{Builder, Layer, media_type};
use prewasi_test::docker::{Docker, ImageStore, RUNTIME};
use prewasi_test::guests::{DEMO, WEB};
use prewasi_test::http;
use prewasi_test::image::{Program, files};
use prewasi_test::process::{self, Output};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, eventually};
use serde_json::json;

use crate::busybox;

mod requests;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case!(page_tells_the_truth, needs Docker),
        case!(layers_are_found, needs Docker),
        case!(files_are_compiled_once, needs Docker Busybox),
        case!(options_of_run_are_obeyed, needs Docker Runc Busybox),
        case!(containers_are_managed, needs Docker Busybox),
        case!(containers_outlive_dockerd, needs Docker Runc Busybox),
        case!(ports_and_compose, needs Docker),
    ];
    cases.extend(requests::cases());
    cases
}

const LIMIT: Duration = Duration::from_secs(30);
const STORES: [ImageStore; 2] = [ImageStore::Containerd, ImageStore::Own];
/// How containers are run that need no network, as wasm.
const WASM: [&str; 4] = ["--network", "none", "--runtime", RUNTIME];

/// Joins the arguments of a command.
fn args<'a>(parts: &[&[&'a str]]) -> Vec<&'a str> {
    parts.concat()
}

/// Runs a container of an image to its end.
#[track_caller]
fn run(docker: &Docker, flags: &[&str], image: &str, rest: &[&str]) -> Output {
    docker.run(&args(&[&["run", "--rm"], &WASM, flags, &[image], rest]))
}

/// Asserts that nothing is left of Docker and its containers.
async fn finish(docker: Docker) {
    let left = docker.finish().await;
    // Docker mounts its own folder on itself, and keeps that.
    let left: Vec<_> = left.into_iter().filter(|left| !left.ends_with("/docker")).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Runs `ctr` in Docker's namespace.
#[track_caller]
fn ctr(docker: &Docker, args: &[&str]) -> String {
    let mut command = docker.containerd.command(docker.containerd.series().programs().join("ctr"));
    let namespace = format!("{}-moby", docker.containerd.id());
    command.arg("--address").arg(docker.containerd.address()).args(["--namespace", &namespace]).args(args);
    process::run(&mut command, LIMIT).success().stdout
}

/// Describes an ordinary image with busybox and the demo program, which is its entrypoint.
fn mixed(program: &Program) -> impl FnOnce(Builder) -> Builder {
    let layer = files(&[
        ("/bin/busybox", &busybox::bytes(), 0o755),
        ("/app/demo.wasm", &program.bytes, 0o755),
        ("/tmp/.keep", b"", 0o644),
    ]);
    |image| image.os("linux").entrypoint(["/app/demo.wasm"]).layer(layer)
}

/// Lists the blocks of a kind in a page.
fn blocks<'a>(page: &'a str, kind: &str) -> Vec<&'a str> {
    let begin = format!("```{kind}\n");
    page.split(&*begin).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

/// Returns whether a line matches the line of the page; `…` stands for anything at its end.
fn is_like(line: &str, wanted: &str) -> bool {
    wanted.strip_suffix('…').map_or(line == wanted, |start| line.starts_with(start))
}

/// The page about Docker is true: each of its commands, with the configuration of the page, prints the output of the page.
async fn page_tells_the_truth(namespace: Namespace) {
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/docker.md")).expect("it is there");
    let ([settings], [options]) = (&blocks(&page, "json")[..], &blocks(&page, "toml")[..]) else {
        panic!("the page has one block of each");
    };
    let place = namespace.folder().join("docker.toml");
    fs::write(&place, options).expect("the folder is ours");
    let settings = settings.replace("/etc/prewasi/docker.toml", &place.to_string_lossy());
    let settings = serde_json::from_str(&settings).expect("the page has a document");
    let docker = Docker::start_with(namespace.daemon().series(), ImageStore::Containerd, settings).await;
    let folder = docker.folder().join("page");
    fs::create_dir(&folder).expect("the folder is ours");
    fs::write(folder.join("hello.wasm"), Program::guest(&namespace, DEMO).bytes).expect("the folder is ours");
    let own = format!("{}-moby", docker.containerd.id());
    let commands: Vec<&str> = blocks(&page, "console");
    assert!(commands.len() > 4, "{commands:?}");
    for block in commands {
        for command in block.split("$ ").skip(1) {
            let (command, expected) = command.split_once('\n').unwrap_or((command, ""));
            let command = command.replace("--namespace moby", &format!("--namespace {own}"));
            let mut shell = docker.command("/bin/sh");
            shell.args(["-c", &format!("exec 2>&1; {command}")]).current_dir(&folder);
            shell.env("CONTAINERD_ADDRESS", docker.containerd.address());
            let output = process::run(&mut shell, LIMIT);
            let (lines, wanted): (Vec<_>, Vec<_>) = (output.stdout.lines().collect(), expected.lines().collect());
            let is_as_said =
                lines.len() == wanted.len() && lines.iter().zip(wanted).all(|(line, wanted)| is_like(line, wanted));
            assert!(is_as_said, "{output}, not {expected:?}");
        }
    }
    finish(docker).await;
}

/// An image with wasm and data as layers runs with the containerd image store. It is compiled once, its data are mounted and unmounted, and
/// exec processes work too. Without that store `docker load` refuses it.
async fn layers_are_found(namespace: Namespace) {
    let docker = Docker::start(namespace.daemon().series(), ImageStore::Containerd).await;
    let program = Program::guest(&namespace, DEMO);
    let describe = |image: Builder| {
        let data = Layer::from_bytes(media_type::DATA, "model.bin", b"the model\n".to_vec()).expect("it is data");
        image.layer(program.layer("demo.wasm")).layer(data.mounted_at("/data/model.bin").expect("a plain path"))
    };
    docker.load("layers:v1", describe).success();
    for flags in [&["--platform", "wasip1/wasm"][..], &[], &["--read-only"], &["--init"]] {
        let output = run(&docker, flags, "layers:v1", &["read", "/data/model.bin"]);
        assert_eq!(output.success().stdout, "the model\n", "{flags:?}");
    }
    assert_eq!(docker.containerd.journal().compiles(&program.digest).len(), 1);
    // Docker 26.1 lists images for the platform of the machine alone.
    let listed = docker.says(&["images", "--quiet", "layers:v1"]);
    assert_eq!(listed.is_empty(), namespace.daemon().series().is_old(), "{listed}");
    docker.says(&["image", "inspect", "layers:v1"]);
    docker.says(&args(&[&["run", "--detach", "--name", "box"], &WASM, &["layers:v1", "sleep", "1000"]]));
    let write = run(&docker, &[], "layers:v1", &["write", "/data/model.bin", "x"]);
    assert_ne!(write.code(), 0, "{write}");
    let executed = docker.says(&["exec", "box", "demo.wasm", "read", "/data/model.bin"]);
    assert_eq!(executed, "the model\n");
    // A client that reads the container's own files finds an empty one, because a mount covers it.
    let changes = docker.says(&["diff", "box"]);
    assert!(changes.lines().any(|line| line == "A /data/model.bin"), "{changes}");
    let copy = docker.folder().join("copy").display().to_string();
    docker.says(&["cp", "box:/data/model.bin", &copy]);
    assert_eq!(fs::read(&copy).expect("Docker made it"), b"");
    docker.says(&["export", "--output", &copy, "box"]);
    let mut tar = Command::new("tar");
    let exported = process::run(tar.args(["--to-stdout", "-xf", &copy, "data/model.bin"]), LIMIT);
    assert_eq!(exported.success().stdout, "");
    docker.says(&["restart", "--time", "1", "box"]);
    assert_eq!(docker.says(&["exec", "box", "demo.wasm", "read", "/data/model.bin"]), "the model\n");
    assert_eq!(docker.containerd.journal().compiles(&program.digest).len(), 1);
    finish(docker).await;

    let docker = Docker::start(namespace.daemon().series(), ImageStore::Own).await;
    let output = docker.load("layers:v1", describe);
    assert_ne!(output.code(), 0, "{output}");
    output.says(&["cannot load wasip1 image on linux"]);
    finish(docker).await;
}

/// A wasm file of an ordinary image is compiled at its first start alone, with either store. Where containerd has no image of it, the code
/// goes with the lease that keeps it, and is then compiled again.
async fn files_are_compiled_once(namespace: Namespace) {
    for store in STORES {
        let docker = Docker::start(namespace.daemon().series(), store).await;
        let program = Program::guest(&namespace, DEMO);
        docker.load("mixed:v1", mixed(&program)).success();
        let compiles = || docker.containerd.journal().compiles(&program.digest).len();
        for _ in 0..2 {
            assert_eq!(run(&docker, &[], "mixed:v1", &["echo", "x"]).success().stdout, "x\n");
        }
        assert_eq!(compiles(), 1, "{store:?}");
        let ctr = |args: &[&str]| ctr(&docker, args);
        let artifacts = || ctr(&["content", "ls", "--quiet", "labels.\"runwasi.io/precompiled\""]).lines().count();
        assert_eq!(artifacts(), 1, "{store:?}");
        if store == ImageStore::Own {
            let leases = ctr(&["leases", "ls", "--quiet"]);
            let leases: Vec<&str> = leases.lines().collect();
            assert_eq!(leases.len(), 1, "one keeps the code: {leases:?}");
            ctr(&["leases", "rm", "--sync", leases[0]]);
            assert_eq!(artifacts(), 0);
            assert_eq!(run(&docker, &[], "mixed:v1", &["echo", "x"]).success().stdout, "x\n");
            assert_eq!(compiles(), 2);
        } else {
            docker.says(&["image", "rm", "mixed:v1"]);
            eventually("the end of the code", LIMIT, async || match artifacts() {
                0 => Ok(()),
                count => Err(format!("{count} artifacts")),
            })
            .await;
        }
        finish(docker).await;
    }
}

/// Takes the lines of `/proc/self/status` about the rights of a process.
fn rights(status: &str) -> BTreeMap<&str, &str> {
    const WANTED: [&str; 8] = ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs"];
    let lines = status.lines().filter_map(|line| line.split_once(":"));
    lines.filter(|(name, _)| WANTED.contains(name)).map(|(name, value)| (name, value.trim())).collect()
}

/// The options of `docker run` for users, capabilities, files, volumes and limits hold for wasm and native programs as under runc.
async fn options_of_run_are_obeyed(namespace: Namespace) {
    let docker = Docker::start(namespace.daemon().series(), ImageStore::Own).await;
    let program = Program::guest(&namespace, DEMO);
    docker.load("mixed:v1", mixed(&program)).success();
    let native = ["--entrypoint", "/bin/busybox"];
    let status = |flags: &[&str], runtime: &[&str], entry: &[&str], verb: &str| {
        let common = ["run", "--rm", "--network", "none"];
        let file = ["mixed:v1", verb, "/proc/self/status"];
        docker.says(&args(&[&common, flags, runtime, entry, &file]))
    };
    let ours = ["--runtime", RUNTIME];
    for flags in [
        &[][..],
        &["--user", "1234:2345", "--group-add", "77", "--cap-drop", "ALL"],
        &["--cap-drop", "NET_RAW", "--cap-add", "SYS_TIME", "--security-opt", "no-new-privileges"],
    ] {
        let expected = status(flags, &[], &native, "cat");
        let expected = rights(&expected);
        assert_eq!(rights(&status(flags, &ours, &native, "cat")), expected, "native: {flags:?}");
        // A guest's process never gains privileges.
        let confined: BTreeMap<_, _> = expected.into_iter().chain([("NoNewPrivs", "1")]).collect();
        assert_eq!(rights(&status(flags, &ours, &[], "read")), confined, "wasm: {flags:?}");
    }

    let volume = docker.folder().join("volume");
    fs::create_dir(&volume).expect("the folder is ours");
    let [read_write, read_only] = ["", ":ro"].map(|mode| format!("{}:/volume{mode}", volume.display()));
    let mut outcomes = Vec::new();
    for (number, (flags, path)) in [
        (&["--volume", &*read_write][..], "/volume/file"),
        (&["--volume", &read_only], "/volume/other"),
        (&["--read-only"], "/app/file"),
        (&["--read-only", "--tmpfs", "/tmp"], "/tmp/file"),
        (&[], "/app/file"),
    ]
    .into_iter()
    .enumerate()
    {
        let wasm = run(&docker, flags, "mixed:v1", &["write", path, "text"]);
        let script = format!("echo text > {path}");
        let flags = args(&[&["run", "--rm", "--network", "none"], flags, &native]);
        let runc = docker.run(&args(&[&flags, &["mixed:v1", "sh", "-c", &script]]));
        assert_eq!(wasm.status.success(), runc.status.success(), "{number}: {wasm}, and {runc}");
        outcomes.push(wasm.status.success());
    }
    assert_eq!(outcomes, [true, false, false, true, true]);
    assert!(volume.join("file").exists() && !volume.join("other").exists());

    let output = run(&docker, &["--env", "A=b", "--workdir", "/app"], "mixed:v1", &["env"]).success().stdout;
    assert!(output.contains("A=b\n") && output.contains("PWD=/app\n"), "{output}");
    assert_eq!(run(&docker, &[], "mixed:v1", &["exit", "3"]).code(), 3);
    let named = run(&docker, &["--hostname", "box.example"], "mixed:v1", &["read", "/etc/hostname"]).success();
    assert_eq!(named.stdout, "box.example\n");
    let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let quota = if is_v2 { "/sys/fs/cgroup/cpu.max" } else { "/sys/fs/cgroup/cpu/cpu.cfs_quota_us" };
    let limited = run(&docker, &["--cpus", "0.5"], "mixed:v1", &["read", quota]).success();
    assert_eq!(limited.stdout.split_whitespace().next(), Some("50000"), "{limited}");
    let out_of_memory = run(&docker, &["--memory", "64m"], "mixed:v1", &["allocate", "200"]);
    assert_eq!(out_of_memory.code(), 137, "{out_of_memory}");
    let terminal = run(&docker, &["--tty"], "mixed:v1", &["terminal"]).success();
    assert_eq!(terminal.stdout, "yes yes yes\r\n");
    // Docker's init program is seen through for wasm, and runs for others.
    let with_init = run(&docker, &["--init"], "mixed:v1", &["echo", "seen"]).success();
    assert_eq!(with_init.stdout, "seen\n");
    let first = run(&docker, &["--init", "--entrypoint", "/bin/busybox"], "mixed:v1", &["cat", "/proc/1/comm"]);
    assert_eq!(first.success().stdout, "docker-init\n");
    let missing = run(&docker, &["--init", "--entrypoint", "/app/none.wasm"], "mixed:v1", &[]);
    missing.says(&["cannot find entrypoint \"/app/none.wasm\""]);
    finish(docker).await;
}

/// A running container is listed, measured, paused, changed, executed in, stopped by its signal, started again and restarted by policy.
async fn containers_are_managed(namespace: Namespace) {
    let docker = Docker::start(namespace.daemon().series(), ImageStore::Own).await;
    let program = Program::guest(&namespace, DEMO);
    docker.load("mixed:v1", mixed(&program)).success();
    let create = |flags: &[&str], rest: &[&str]| {
        docker.says(&args(&[&["run", "--detach"], &WASM, flags, &["mixed:v1"], rest]));
    };
    create(&["--name", "box", "--stop-signal", "INT", "--memory", "100m", "--init"], &["sleep", "1000"]);
    let top = docker.says(&["top", "box", "-o", "pid,args"]);
    let processes: Vec<_> = top.lines().skip(1).collect();
    assert!(matches!(processes[..], [line] if line.ends_with("/app/demo.wasm sleep 1000")), "{top}");
    let usage = docker.says(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "box"]);
    assert!(usage.contains(" / 100MiB ") && !usage.starts_with("0B") && !usage.trim_end().ends_with(" 0"), "{usage}");
    docker.says(&["update", "--memory", "90m", "--memory-swap", "90m", "box"]);
    let usage = docker.says(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "box"]);
    assert!(usage.trim_end().ends_with(" / 90MiB"), "{usage}");
    docker.says(&["pause", "box"]);
    assert_eq!(docker.inspect("box", "{{.State.Status}}"), "paused");
    docker.says(&["unpause", "box"]);
    assert_eq!(docker.says(&["exec", "box", "/app/demo.wasm", "echo", "x"]), "x\n");
    assert_eq!(docker.says(&["exec", "box", "/bin/busybox", "echo", "y"]), "y\n");
    assert_eq!(docker.run(&["exec", "box", "/app/demo.wasm", "exit", "7"]).code(), 7);
    docker.says(&["stop", "--time", "20", "box"]);
    assert_eq!(docker.inspect("box", "{{.State.ExitCode}}"), "130");
    docker.says(&["start", "box"]);
    docker.says(&["restart", "--time", "20", "box"]);
    assert_eq!(docker.inspect("box", "{{.State.Status}}"), "running");
    docker.says(&["kill", "box"]);
    assert_eq!(docker.says(&["wait", "box"]).trim_end(), "137");
    assert_eq!(docker.says(&["logs", "box"]), "sleeping 1000\n".repeat(3));

    create(&["--name", "again", "--restart", "on-failure:2"], &["exit", "5"]);
    eventually("the third end", LIMIT, async || {
        let state = docker.inspect("again", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}");
        if state == "2 exited 5" { Ok(()) } else { Err(state) }
    })
    .await;
    assert_eq!(docker.containerd.journal().compiles(&program.digest).len(), 1);
    finish(docker).await;
}

/// With live-restore containers run on while dockerd is away, and are known to the next one; one that ends meanwhile is found ended.
async fn containers_outlive_dockerd(namespace: Namespace) {
    let settings = json!({ "live-restore": true });
    let mut docker = Docker::start_with(namespace.daemon().series(), ImageStore::Containerd, settings).await;
    let program = Program::guest(&namespace, DEMO);
    docker.load("layers:v1", |image| image.layer(program.layer("demo.wasm"))).success();
    docker.says(&args(&[&["run", "--detach", "--name", "box"], &WASM, &["layers:v1", "sleep", "1000"]]));
    let pid = docker.inspect("box", "{{.State.Pid}}");
    docker.says(&args(&[&["run", "--detach", "--name", "ended"], &WASM, &["layers:v1", "sleep", "1000"]]));
    docker.load("mixed:v1", mixed(&program)).success();
    let native = ["run", "--detach", "--network", "none", "--entrypoint", "/bin/busybox", "--name", "ended-native"];
    docker.says(&args(&[&native, &["mixed:v1", "sleep", "1000"]]));
    let ended = ["ended", "ended-native"].map(|name| docker.inspect(name, "{{.State.Pid}}"));
    docker.stop().await;
    for pid in ended {
        requests::kill(&pid);
    }
    docker.start_again().await;
    assert_eq!(docker.inspect("box", "{{.State.Pid}} {{.State.Status}}"), format!("{pid} running"));
    for name in ["ended", "ended-native"] {
        let state = || docker.inspect(name, "{{.State.Status}} {{.State.ExitCode}}");
        eventually("the news of an end", LIMIT, async || if state() == "exited 137" { Ok(()) } else { Err(state()) })
            .await;
    }
    assert_eq!(docker.says(&["exec", "box", "demo.wasm", "echo", "x"]), "x\n");
    docker.says(&["stop", "--time", "20", "box"]);
    assert_eq!(docker.inspect("box", "{{.State.ExitCode}}"), "143");
    finish(docker).await;
}

/// A component answers requests on a published port, started by `docker run` and by Compose, which puts an init program before it.
async fn ports_and_compose(namespace: Namespace) {
    let docker = Docker::start(namespace.daemon().series(), ImageStore::Containerd).await;
    let program = Program::guest(&namespace, WEB);
    docker.load("web:v1", |image| image.layer(program.layer("web.wasm"))).success();
    let answers =
        async |port: u16| eventually("an answer", LIMIT, async || http::get(&format!("127.0.0.1:{port}"), "/")).await;
    docker.says(&["network", "create", "net"]);
    let port = http::free_port();
    let published = format!("127.0.0.1:{port}:8080");
    let flags = ["--detach", "--name", "web", "--network", "net", "--publish", &published, "--runtime", RUNTIME];
    docker.says(&args(&[&["run"], &flags, &["web:v1"]]));
    assert_eq!(answers(port).await.0, 200);
    docker.says(&["rm", "--force", "web"]);
    docker.says(&["network", "rm", "net"]);

    let port = http::free_port();
    let service = json!({
        "image": "web:v1",
        "runtime": RUNTIME,
        "init": true,
        "restart": "always",
        "ports": [format!("127.0.0.1:{port}:8080")],
    });
    let file = docker.folder().join("compose.json");
    fs::write(&file, json!({ "services": { "web": service } }).to_string()).expect("the folder is ours");
    let compose = |verb: &[&str]| docker.run(&args(&[&["compose", "--file", &file.to_string_lossy()], verb])).success();
    compose(&["up", "--detach"]);
    assert_eq!(answers(port).await.0, 200);
    compose(&["down"]);
    finish(docker).await;
}
