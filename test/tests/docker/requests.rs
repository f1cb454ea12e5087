//! Further requests of Docker's users, each with a native program under runc and under our shim, and with wasm: restart policies, input,
//! networks, volumes, stop signals. And files beyond those that a keeper keeps.

use std::fs;

use oci_tar_builder::Builder;
use prewasi_test::docker::{Docker, ImageStore, RUNTIME};
use prewasi_test::guests::DEMO;
use prewasi_test::image::{Program, files};
use prewasi_test::process;
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, eventually};
use rustix::process::{Pid, Signal};

use super::{LIMIT, args, ctr, finish, run};
use crate::busybox;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(restart_policies_are_obeyed, needs Docker Runc Busybox),
        case!(input_networks_volumes_and_stops_are_as_with_runc, needs Docker Runc Busybox),
        case!(full_keeper_takes_no_more, needs Docker Busybox),
    ]
}

/// The subjects: a name, the flags of the runtime and of the program, and whether it is wasm. The first is the reference.
const SUBJECTS: [(&str, &[&str], bool); 3] = [
    ("runc", &["--entrypoint", "/bin/busybox"], false),
    ("native", &["--runtime", RUNTIME, "--entrypoint", "/bin/busybox"], false),
    ("wasm", &["--runtime", RUNTIME], true),
];

/// Kills a process of the node.
pub(super) fn kill(pid: &str) {
    let pid = pid.parse().ok().and_then(Pid::from_raw).expect("it runs");
    rustix::process::kill_process(pid, Signal::KILL).expect("it runs");
}

/// Describes an ordinary image with busybox and three wasm programs: the demo program, the entrypoint, and two that exit with 4 and 5.
fn several(program: &Program) -> impl FnOnce(Builder) -> Builder {
    let layer = files(&[
        ("/bin/busybox", &busybox::bytes(), 0o755),
        ("/app/demo.wasm", &program.bytes, 0o755),
        ("/app/second.wasm", &crate::volumes::exits(4), 0o755),
        ("/app/third.wasm", &crate::volumes::exits(5), 0o755),
    ]);
    |image| image.os("linux").entrypoint(["/app/demo.wasm"]).layer(layer)
}

async fn docker(namespace: &Namespace) -> (Docker, Program) {
    let docker = Docker::start(namespace.daemon().series(), ImageStore::Own).await;
    let program = Program::guest(namespace, DEMO);
    docker.load("several:v1", several(&program)).success();
    (docker, program)
}

/// Returns the arguments of a program that ends at SIGTERM.
fn waiting(is_wasm: bool) -> &'static [&'static str] {
    if is_wasm {
        &["sleep", "1000"]
    } else {
        &["sh", "-c", "trap 'exit 143' TERM; while :; do busybox sleep 0.1; done"]
    }
}

/// `always` and `unless-stopped` start a killed program again. When dockerd comes back, they start it too, but the latter not if it was
/// stopped.
async fn restart_policies_are_obeyed(namespace: Namespace) {
    let (mut docker, program) = docker(&namespace).await;
    let roles = [("always", "always"), ("unless", "unless-stopped"), ("stopped", "unless-stopped")];
    for (subject, flags, is_wasm) in SUBJECTS {
        for (role, policy) in roles {
            let name = format!("{subject}-{role}");
            let own = ["run", "--detach", "--network", "none", "--name", &name, "--restart", policy];
            docker.says(&args(&[&own, flags, &["several:v1"], waiting(is_wasm)]));
            kill(&docker.inspect(&name, "{{.State.Pid}}"));
            eventually("another start", LIMIT, async || {
                let state = docker.inspect(&name, "{{.RestartCount}} {{.State.Status}}");
                if state == "1 running" { Ok(()) } else { Err(format!("{name}: {state}")) }
            })
            .await;
        }
        let name = format!("{subject}-stopped");
        docker.says(&["stop", "--time", "20", &name]);
        assert_eq!(docker.inspect(&name, "{{.State.Status}} {{.State.ExitCode}}"), "exited 143", "{name}");
    }
    docker.restart().await;
    for (subject, ..) in SUBJECTS {
        for (role, expected) in [("always", "running"), ("unless", "running"), ("stopped", "exited")] {
            let name = format!("{subject}-{role}");
            eventually("the containers of the new dockerd", LIMIT, async || {
                let state = docker.inspect(&name, "{{.State.Status}}");
                if state == expected { Ok(()) } else { Err(format!("{name}: {state}")) }
            })
            .await;
        }
    }
    assert_eq!(docker.containerd.journal().compiles(&program.digest).len(), 1);
    finish(docker).await;
}

/// `-i` passes input on, `--network` takes the network of the node or of another container, a named volume keeps its files for the next
/// container, and `--stop-signal` is heard.
async fn input_networks_volumes_and_stops_are_as_with_runc(namespace: Namespace) {
    let (docker, _) = docker(&namespace).await;
    docker.says(&["volume", "create", "kept"]);
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).expect("it runs");
    let mut all = Vec::new();
    for (subject, flags, is_wasm) in SUBJECTS {
        let detached = |name: &str, own: &[&str], rest: &[&str]| {
            let name = format!("{subject}-{name}");
            docker.says(&args(&[&["run", "--detach", "--name", &name], own, flags, &["several:v1"], rest]));
            let pid = docker.inspect(&name, "{{.State.Pid}}");
            (name, pid)
        };
        let mut shell = docker.command("/bin/sh");
        let line = format!("echo typed | docker run --rm -i --network none {} several:v1 cat", flags.join(" "));
        let input = process::run(shell.args(["-c", &line]), LIMIT).success().stdout;

        let (own, own_pid) = detached("own", &["--network", "none"], waiting(is_wasm));
        let (_, of_node) = detached("node", &["--network", "host"], waiting(is_wasm));
        let (_, of_other) = detached("other", &["--network", &format!("container:{own}")], waiting(is_wasm));
        let node = network(&std::process::id().to_string());
        let networks = [network(&of_node) == node, network(&of_other) == network(&own_pid), network(&own_pid) == node];

        let file = format!("/data/{subject}");
        let write: &[&str] =
            if is_wasm { &["write", &file, "text"] } else { &["sh", "-c", &format!("echo text > {file}")] };
        let kept = ["run", "--rm", "--network", "none", "--volume", "kept:/data"];
        docker.says(&args(&[&kept, flags, &["several:v1"], write]));
        let read = if is_wasm { "read" } else { "cat" };
        let volume = docker.says(&args(&[&kept, flags, &["several:v1", read, &file]]));

        let hearing: &[&str] =
            if is_wasm { &["cat"] } else { &["sh", "-c", "trap 'exit 0' USR1; while :; do busybox sleep 0.1; done"] };
        let stops = ["--network", "none", "--env", "PREWASI_STOP=stdin", "--stop-signal", "USR1"];
        let (stopped, _) = detached("stopped", &stops, hearing);
        if !is_wasm {
            // The trap is set once the shell has begun to sleep.
            eventually("the script", LIMIT, async || {
                let top = docker.says(&["top", &stopped, "-o", "pid,args"]);
                if top.contains("sleep 0.1") { Ok(()) } else { Err(top) }
            })
            .await;
        }
        docker.says(&["stop", "--time", "30", &stopped]);
        let stop = docker.inspect(&stopped, "{{.State.Status}} {{.State.ExitCode}}");
        all.push((input, networks, volume, stop));
    }
    let expected = ("typed\n".to_owned(), [true, true, false], "text\n".to_owned(), "exited 0".to_owned());
    assert_eq!(all, [expected.clone(), expected.clone(), expected]);

    assert_eq!(docker.run(&["exec", "wasm-own", "/app/second.wasm"]).code(), 4);
    let missing = run(&docker, &["--entrypoint", "/none.wasm"], "several:v1", &[]);
    missing.says(&["cannot find entrypoint \"/none.wasm\"", "names no image, so there are no layers to search"]);
    finish(docker).await;
}

/// A keeper that keeps the code of 64 files takes no more: the 65th runs, and is compiled at each start. Those that it keeps are not.
async fn full_keeper_takes_no_more(namespace: Namespace) {
    let (docker, program) = docker(&namespace).await;
    let starts = |file: &str, code: i32| {
        assert_eq!(run(&docker, &["--entrypoint", file], "several:v1", &["exit", "6"]).code(), code, "{file}");
    };
    starts("/app/demo.wasm", 6);
    let keepers = ctr(&docker, &["content", "ls", "--quiet", "labels.\"prewasi.io/kept-until\""]);
    let keepers: Vec<&str> = keepers.lines().collect();
    let [keeper] = keepers[..] else { panic!("one keeper, not {keepers:?}") };
    let others = (0..62).map(|number| format!("runwasi.io/precompiled/other/1-000000000000/{number:012x}={keeper}"));
    let others: Vec<String> = others.collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    ctr(&docker, &args(&[&["content", "label", keeper], &others]));
    starts("/app/second.wasm", 4);
    let labels = || {
        let listed = ctr(&docker, &["content", "ls", &format!("digest=={keeper}")]);
        // The columns before it have an age.
        listed.trim_end().rsplit_once('\t').expect("there are columns").1.to_owned()
    };
    let full = labels();
    assert_eq!(full.matches("runwasi.io/precompiled/").count(), 64, "{full}");
    for _ in 0..2 {
        starts("/app/third.wasm", 5);
        starts("/app/second.wasm", 4);
        starts("/app/demo.wasm", 6);
    }
    assert_eq!(labels(), full);
    let [second, third] = [4, 5].map(|code| prewasi_test::image::digest(&crate::volumes::exits(code)));
    let compiles = [&program.digest, &second, &third].map(|of| docker.containerd.journal().compiles(of).len());
    assert_eq!(compiles, [1, 1, 2]);
    finish(docker).await;
}
