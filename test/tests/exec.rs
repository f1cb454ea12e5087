//! Executing further processes in a container: native programs, other wasm, exports.

use std::fs;
use std::path::Path;
use std::time::Duration;

use containerd_client::events::{TaskExecAdded, TaskExecStarted, TaskExit};
use containerd_client::types::v1::Status;
use prewasi_test::guests::{DEMO, DEMO_COMPONENT};
use prewasi_test::image::{self, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case, eventually};
use prost::Message as _;
use rustix::process::Signal;
use serde_json::json;
use tonic::Code;

use crate::busybox;
use crate::running::{sleeping, ticking};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(native_program_runs_in_a_native_container, needs Busybox),
        case!(process_has_id_state_events_and_name, needs Busybox),
        case!(missing_program_is_named, needs Busybox),
        case!(process_may_be_told_a_lot, needs Busybox),
        case!(container_program_runs_again_in_a_wasm_container),
        case!(component_runs_again_in_a_wasm_container),
        case!(export_is_called),
        case!(wasm_process_shares_the_container),
        case!(wasm_image_without_that_program_says_what_it_has),
        case!(ordinary_image_runs_wasm_and_native_programs, needs Busybox),
        case!(image_with_many_artifacts_gets_no_more, needs Busybox),
        case!(input_reaches_the_process_and_ends, needs Busybox),
        case!(input_that_was_over_before_the_start_ends, needs Busybox),
        case!(signals_end_processes, needs Busybox),
        case!(process_ends_before_its_container, needs Busybox),
        case!(calls_in_the_wrong_state_are_refused, needs Busybox),
        case!(nothing_stays_of_many_processes, needs Busybox),
        case!(processes_start_at_once, needs Busybox),
        case!(user_namespace_is_joined, needs Busybox),
    ]
}

const LIMIT: Duration = Duration::from_secs(20);

/// A native program has its own streams and exit code, and is inside: it sees the container's host name and first process.
async fn native_program_runs_in_a_native_container(namespace: Namespace) {
    let container = sleeping(&namespace).await;
    let script = "busybox hostname; busybox tr '\\0' ' ' < /proc/1/cmdline; echo err >&2; exit 5";
    let exited = container.exec(&["/bin/busybox", "sh", "-c", script]).run().await;
    let expected = format!("{}\n/bin/busybox sleep 600 ", container.id());
    assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (5, &*expected, "err\n"));
    container.end().await;
}

/// A process is created, running and stopped under its exec id; events tell of it, and the list of processes names it.
async fn process_has_id_state_events_and_name(namespace: Namespace) {
    let events = namespace.events().await;
    let container = sleeping(&namespace).await;
    let mut process = container.exec(&["/bin/busybox", "sleep", "600"]).create().await;
    let added: TaskExecAdded = events.next("/tasks/exec-added").await;
    assert_eq!((&*added.container_id, &*added.exec_id), (container.id(), process.exec_id()));
    assert_eq!(process.state().await.expect("it is known").status(), Status::Created);
    process.start().await;
    let state = process.state().await.expect("it is known");
    assert_eq!((state.status(), state.pid), (Status::Running, process.pid()));
    let started: TaskExecStarted = events.next("/tasks/exec-started").await;
    assert_eq!((&*started.exec_id, started.pid), (process.exec_id(), process.pid()));

    #[derive(Clone, PartialEq, prost::Message)]
    struct Details {
        #[prost(string, tag = "1")]
        exec_id: String,
    }
    let pids = container.pids().await.expect("the shim answers");
    let info = pids.iter().find(|info| info.pid == process.pid()).and_then(|info| info.info.clone());
    let info = info.expect("the process is listed with its details");
    assert_eq!(info.type_url, "containerd.runc.v1.ProcessDetails");
    assert_eq!(Details::decode(&*info.value).expect("details").exec_id, process.exec_id());

    process.kill(Signal::TERM).await.expect("a running process can be killed");
    assert_eq!(process.wait().await, 143);
    let exit: TaskExit = events.next("/tasks/exit").await;
    assert_eq!((&*exit.container_id, &*exit.id, exit.exit_status), (container.id(), process.exec_id(), 143));
    assert_eq!(process.state().await.expect("it is known").status(), Status::Stopped);
    assert_eq!(process.delete().await.exit_status, 143);
    assert_eq!(container.state().await.expect("it runs on").status(), Status::Running);
    container.end().await;
}

/// A program that is not there, or is none, is named by the failed start; the container runs on.
async fn missing_program_is_named(namespace: Namespace) {
    let container = sleeping(&namespace).await;
    for program in ["/bin/nothing", "nothing", "/proc/self/status"] {
        let mut process = container.exec(&[program]).create().await;
        let status = process.try_start().await.expect_err("there is no such program");
        assert!(status.message().contains(&format!("cannot execute {program:?}")), "{status}");
        process.delete().await;
    }
    assert_eq!(container.exec(&["/bin/busybox", "true"]).run().await.code, 0);
    container.end().await;
}

/// A process gets an environment and arguments of more than half a megabyte.
async fn process_may_be_told_a_lot(namespace: Namespace) {
    let container = sleeping(&namespace).await;
    let long = "x".repeat(120_000);
    let env: Vec<String> = ["A", "B", "C"].map(|name| format!("{name}={long}{name}")).into();
    let script = "echo ${#A} ${#B} ${#C} ${#1} ${#2} $0";
    let exec = container.exec(&["/bin/busybox", "sh", "-c", script, "end", &long, &long]);
    let exited = exec.change(json!({ "env": env })).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "120001 120001 120001 120000 120000 end\n"));
    container.end().await;
}

/// In a wasm container the container's own program runs again with other arguments, by its entrypoint or its title.
async fn container_program_runs_again_in_a_wasm_container(namespace: Namespace) {
    let container = ticking(&namespace, DEMO).await;
    for program in ["demo.wasm", "/demo.wasm"] {
        let exited = container.exec(&[program, "echo", "again"]).run().await;
        assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (0, "again\n", ""), "{program}");
    }
    assert_eq!(container.exec(&["demo.wasm", "exit", "9"]).run().await.code, 9);
    container.end().await;
}

/// The same with a component.
async fn component_runs_again_in_a_wasm_container(namespace: Namespace) {
    let container = ticking(&namespace, DEMO_COMPONENT).await;
    let exited = container.exec(&["demo.wasm", "echo", "again"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "again\n"));
    container.end().await;
}

/// `file.wasm#function` calls an export; one that is not there is an error that names it.
async fn export_is_called(namespace: Namespace) {
    let container = ticking(&namespace, DEMO).await;
    let exited = container.exec(&["demo.wasm#greet"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "hello from greet\n"));
    let mut process = container.exec(&["demo.wasm#nothing"]).create().await;
    let status = process.try_start().await.expect_err("there is no such export");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("cannot call export \"nothing\""), "{status}");
    process.delete().await;
    container.end().await;
}

/// A wasm process is in the namespaces and cgroups of its container, and not in those of the shim.
async fn wasm_process_shares_the_container(namespace: Namespace) {
    let container = ticking(&namespace, DEMO).await;
    let mut process = container.exec(&["demo.wasm", "sleep", "600"]).create().await;
    process.start().await;
    process.prints("sleeping 600\n").await;
    let link = |pid: u32, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("it runs");
    for name in ["pid", "mnt", "net", "ipc", "uts"] {
        assert_eq!(link(process.pid(), name), link(container.pid(), name), "{name}");
        assert_ne!(link(process.pid(), name), link(std::process::id(), name), "{name}");
    }
    let cgroups = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    assert_eq!(cgroups(process.pid()), cgroups(container.pid()));
    process.kill(Signal::TERM).await.expect("a running process can be killed");
    assert_eq!(process.wait().await, 143);
    process.delete().await;
    container.end().await;
}

/// An exec of a program that a wasm image lacks is refused, and the error lists the programs of the image.
async fn wasm_image_without_that_program_says_what_it_has(namespace: Namespace) {
    let container = ticking(&namespace, DEMO).await;
    for program in ["/bin/sh", "other.wasm"] {
        let mut process = container.exec(&[program]).create().await;
        let status = process.try_start().await.expect_err("the image has one program");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(&format!("cannot find {program:?}")), "{status}");
        assert!(status.message().contains("demo.wasm"), "{status}");
        process.delete().await;
    }
    container.end().await;
}

/// In an ordinary image another wasm file runs as wasm, and a native program natively.
async fn ordinary_image_runs_wasm_and_native_programs(namespace: Namespace) {
    let first = Program::guest(&namespace, DEMO);
    let second = image::marked(&first.bytes, "second");
    let image = busybox::with_wasm(&namespace, &first, &second);
    let mut container = namespace.container(&image.name).create().await;
    container.start().await;
    container.prints("tick 1\n").await;
    let exited = container.exec(&["/app/second.wasm", "echo", "from wasm"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "from wasm\n"));
    let exited = container.exec(&["/app/second.wasm#greet"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "hello from greet\n"));
    let exited = container.exec(&["/bin/busybox", "echo", "native"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "native\n"));
    assert_eq!(namespace.daemon().journal().compiles(&image::digest(&second)).len(), 1);
    container.end().await;
}

/// A file of an image that has very many compiled files already runs, and leaves nothing in the content store.
async fn image_with_many_artifacts_gets_no_more(namespace: Namespace) {
    let first = Program::guest(&namespace, DEMO);
    let second = image::marked(&first.bytes, "second");
    let image = busybox::with_wasm(&namespace, &first, &second);
    let mut container = namespace.container(&image.name).create().await;
    container.start().await;
    for number in 0..64 {
        let key = format!("runwasi.io/precompiled/other/1-000000000000/{number:012x}");
        namespace.set_label(&image.digest, &key, &image.digest).await;
    }
    let before = namespace.labels(&image.digest).await;
    let exited = container.exec(&["/app/second.wasm", "echo", "all the same"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "all the same\n"));
    assert_eq!(namespace.labels(&image.digest).await, before);
    container.end().await;
}

/// Standard input reaches a process, and so does its end.
async fn input_reaches_the_process_and_ends(namespace: Namespace) {
    let container = sleeping(&namespace).await;
    let mut process = container.exec(&["/bin/busybox", "cat"]).stdin().create().await;
    process.start().await;
    process.write("one line\n");
    process.prints("one line\n").await;
    process.close_stdin().await.expect("the shim closes it");
    assert_eq!(process.finish().await.code, 0);
    container.end().await;
}

/// An input that the client has closed before the start ends at once.
async fn input_that_was_over_before_the_start_ends(namespace: Namespace) {
    let container = sleeping(&namespace).await;
    let mut process = container.exec(&["/bin/busybox", "cat"]).stdin().create().await;
    process.write("early\n");
    process.end_stdin_by_call().await.expect("the shim notes it");
    process.start().await;
    // The text would be lost if nobody had opened the fifo before the process.
    process.prints("early\n").await;
    process.drop_stdin();
    let exited = process.finish().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "early\n"));
    container.end().await;
}

/// A process is ended by signals with their exit codes, and not found after that.
async fn signals_end_processes(namespace: Namespace) {
    let container = sleeping(&namespace).await;
    for (signal, code) in [(Signal::TERM, 143), (Signal::KILL, 137)] {
        let mut process = container.exec(&["/bin/busybox", "sleep", "600"]).create().await;
        process.start().await;
        process.kill_with(0, false).await.expect("it is there");
        process.kill(signal).await.expect("a running process can be killed");
        assert_eq!(process.wait().await, code);
        let status = process.kill(signal).await.expect_err("there is nobody to be killed");
        assert_eq!(status.code(), Code::NotFound, "{status}");
        process.delete().await;
    }
    container.end().await;
}

/// When a container ends its other processes end too, and that is told before.
async fn process_ends_before_its_container(namespace: Namespace) {
    let events = namespace.events().await;
    let mut container = sleeping(&namespace).await;
    let mut process = container.exec(&["/bin/busybox", "sleep", "600"]).create().await;
    process.start().await;
    container.kill(Signal::KILL).await.expect("a running container can be killed");
    assert_eq!(process.wait().await, 137);
    assert_eq!(container.wait().await, 137);
    let exits: Vec<TaskExit> = eventually("two exits", LIMIT, async || {
        let exits: Vec<TaskExit> = events.all("/tasks/exit");
        if exits.len() == 2 { Ok(exits) } else { Err(format!("{exits:?}")) }
    })
    .await;
    assert_eq!(exits.iter().map(|exit| &*exit.id).collect::<Vec<_>>(), [process.exec_id(), container.id()]);
    process.delete().await;
    container.delete().await;
}

/// An id that is taken, a process that runs and is to be deleted, one that never ran and is to be signalled.
async fn calls_in_the_wrong_state_are_refused(namespace: Namespace) {
    let container = sleeping(&namespace).await;
    let mut process = container.exec(&["/bin/busybox", "sleep", "600"]).create().await;
    let status = process.kill(Signal::TERM).await.expect_err("it does not run");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let again = container.exec(&["/bin/busybox", "true"]).create_as(process.exec_id()).await;
    assert_eq!(again.err().map(|status| status.code()), Some(Code::AlreadyExists));
    process.start().await;
    let status = process.try_start().await.expect_err("it runs");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let status = process.delete_task().await.expect_err("it runs");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    process.wait_again();
    process.kill(Signal::KILL).await.expect("a running process can be killed");
    process.wait().await;
    process.delete().await;
    let status = process_state_of_unknown(&container).await;
    assert_eq!(status.code(), Code::NotFound, "{status}");
    // One that never ran is simply forgotten.
    container.exec(&["/bin/busybox", "true"]).create().await.delete().await;
    container.end().await;
}

async fn process_state_of_unknown(container: &Container) -> tonic::Status {
    container.state_of("nobody").await.expect_err("there is no such process")
}

/// After many processes nothing of them is in the container's state: probes run for months.
async fn nothing_stays_of_many_processes(namespace: Namespace) {
    let container = sleeping(&namespace).await;
    let states = namespace.daemon().runtime_dir().join("c");
    let state =
        fs::read_dir(&states).expect("there are states").flatten().map(|entry| entry.path().join(container.id()));
    let is_own = |folder: &Path| {
        let state = fs::read_to_string(folder.join(container.id()).join("state.json")).unwrap_or_default();
        state.contains(&format!("/{}/", namespace.name()))
    };
    let state = state.into_iter().find(|folder| is_own(folder)).expect("the container has a state");
    let entries =
        || fs::read_dir(&state).expect("it is there").flatten().map(|entry| entry.file_name()).collect::<Vec<_>>();
    let before = entries();
    for number in 0..10 {
        let exited = container.exec(&["/bin/busybox", "sh", "-c", &format!("exit {number}")]).run().await;
        assert_eq!(exited.code, number);
    }
    assert_eq!(entries(), before);
    container.end().await;
}

/// Several processes are executed at the same time, each with its own output.
async fn processes_start_at_once(namespace: Namespace) {
    let container = sleeping(&namespace).await;
    let words: Vec<String> = (0..6).map(|number| format!("number {number}")).collect();
    let runs = words.iter().map(|word| container.exec(&["/bin/busybox", "echo", word]).run());
    for (exited, word) in futures_join(runs).await.into_iter().zip(&words) {
        assert_eq!((exited.code, exited.stdout), (0, format!("{word}\n")));
    }
    container.end().await;
}

/// Polls all at once until all are done.
async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in futures.iter_mut().filter(|(_, output)| output.is_none()) {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(context) {
                *output = Some(value);
            }
        }
        if futures.iter().all(|(_, output)| output.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}

/// A process joins the user namespace of its container: it is not the node's root.
async fn user_namespace_is_joined(namespace: Namespace) {
    let image = busybox::with_folders(&namespace);
    let ids = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    let script = "busybox cat /proc/self/uid_map; busybox sleep 600";
    let mut container = namespace
        .container(&image.name)
        .args(&["sh", "-c", script])
        .change(json!({ "linux": {
            "uidMappings": ids, "gidMappings": ids,
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "network" },
                { "type": "user" },
            ],
        }}))
        .create()
        .await;
    container.start().await;
    container.prints("100000").await;
    let exited =
        container.exec(&["/bin/busybox", "sh", "-c", "busybox cat /proc/self/uid_map; busybox id -u"]).run().await;
    let words: Vec<&str> = exited.stdout.split_whitespace().collect();
    assert_eq!((exited.code, &*words), (0, &["0", "100000", "65536", "0"][..]));
    container.end().await;
}
