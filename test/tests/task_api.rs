//! The task API, call by call, as a client of containerd sees it.

use containerd_client::events::{TaskCreate, TaskDelete, TaskExit, TaskStart};
use containerd_client::services::v1::CheckpointTaskRequest;
use containerd_client::types::v1::Status;
use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case};
use rustix::process::Signal;
use tonic::Code;

use crate::busybox;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(state_follows_the_task),
        case!(events_tell_the_whole_life),
        case!(pids_are_those_of_the_container),
        case!(stopped_container_has_no_processes, needs Busybox Runc),
        case!(creation_tells_the_root_filesystem, needs Busybox Runc),
        case!(metrics_are_there),
        case!(stdin_reaches_the_guest_and_ends),
        case!(unsupported_calls_say_so),
        case!(created_task_can_be_deleted),
        case!(running_task_cannot_be_deleted),
        case!(many_tasks_at_once),
    ]
}

const RUNC: &str = "io.containerd.runc.v2";

/// Creates a container of the demo program.
async fn demo(namespace: &Namespace, args: &[&str]) -> Container {
    let program = Program::guest(namespace, DEMO);
    let image = image::import(namespace, "demo", |image| image.layer(program.layer("demo.wasm")));
    namespace.container(&image.name).args(args).create().await
}

/// State says created, running and stopped, each with the same process, and the exit status at the end.
async fn state_follows_the_task(namespace: Namespace) {
    let mut container = demo(&namespace, &["sleep", "60"]).await;
    let state = container.state().await.expect("the task is there");
    assert_eq!((state.status(), state.pid), (Status::Created, container.pid()));
    container.start().await;
    container.prints("sleeping 60\n").await;
    let state = container.state().await.expect("the task is there");
    assert_eq!((state.status(), state.pid), (Status::Running, container.pid()));
    container.kill(Signal::TERM).await.expect("a running container can be killed");
    assert_eq!(container.wait().await, 143);
    let state = container.state().await.expect("the task is there");
    assert_eq!((state.status(), state.exit_status), (Status::Stopped, 143));
    assert!(state.exited_at.is_some_and(|time| time.seconds > 0), "{:?}", state.exited_at);
    let deleted = container.delete().await;
    assert_eq!((deleted.exit_status, deleted.pid), (143, state.pid));
}

/// Create, start, exit and delete are published, in this order, with process and exit status.
async fn events_tell_the_whole_life(namespace: Namespace) {
    let events = namespace.events().await;
    let mut container = demo(&namespace, &["exit", "7"]).await;
    let (id, pid) = (container.id().to_owned(), container.pid());
    container.start().await;
    container.finish().await;
    let create: TaskCreate = events.next("/tasks/create").await;
    assert_eq!((&*create.container_id, create.pid), (&*id, pid));
    assert!(create.bundle.ends_with(&id), "{}", create.bundle);
    let start: TaskStart = events.next("/tasks/start").await;
    assert_eq!((&*start.container_id, start.pid), (&*id, pid));
    let exit: TaskExit = events.next("/tasks/exit").await;
    assert_eq!((&*exit.container_id, exit.pid, exit.exit_status), (&*id, pid, 7));
    let delete: TaskDelete = events.next("/tasks/delete").await;
    assert_eq!((&*delete.container_id, delete.pid, delete.exit_status), (&*id, pid, 7));
    let topics = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"];
    assert_eq!(events.topics("/tasks/"), topics);
}

/// Pids lists the container's process, which is a process of this machine.
async fn pids_are_those_of_the_container(namespace: Namespace) {
    let mut container = demo(&namespace, &["sleep", "60"]).await;
    container.start().await;
    container.prints("sleeping 60\n").await;
    let pids: Vec<u32> = container.pids().await.expect("the shim answers").iter().map(|process| process.pid).collect();
    assert!(pids.contains(&container.pid()), "{} in {pids:?}", container.pid());
    for pid in pids {
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} runs");
    }
    container.end().await;
}

/// A container that has ended has no processes any more. It takes a signal for all of them without an error; for a signal to the first
/// process the answer is "not found". As with runc's shim.
async fn stopped_container_has_no_processes(namespace: Namespace) {
    let (program, native) = (Program::guest(&namespace, DEMO), busybox::image(&namespace));
    let wasm = image::import(&namespace, "demo", |image| image.layer(program.layer("demo.wasm")));
    for (image, runtime, args) in [
        (&wasm.name, namespace.runtime(), &["exit", "3"][..]),
        (&native.name, namespace.runtime(), &["sh", "-c", "exit 3"]),
        (&native.name, RUNC.to_owned(), &["sh", "-c", "exit 3"]),
    ] {
        let mut container = namespace.container(image).runtime(&runtime).args(args).create().await;
        container.start().await;
        assert_eq!(container.wait().await, 3);
        let pids = container.pids().await.expect("it is known");
        assert!(pids.is_empty(), "{runtime}: {pids:?}");
        for signal in [Signal::TERM, Signal::KILL] {
            let number = signal.as_raw().cast_unsigned();
            container.kill_with(number, true).await.unwrap_or_else(|status| panic!("{runtime}: {status}"));
            let status = container.kill(signal).await.expect_err("there is nobody");
            assert_eq!(status.code(), Code::NotFound, "{runtime}: {status}");
        }
        let state = container.state().await.expect("it is known");
        assert_eq!((state.status(), state.exit_status), (Status::Stopped, 3), "{runtime}");
        container.delete().await;
    }
}

/// The event of a creation has the mounts of the root filesystem, as that of runc's shim.
async fn creation_tells_the_root_filesystem(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let mut told = Vec::new();
    for runtime in [namespace.runtime(), RUNC.to_owned()] {
        let events = namespace.events().await;
        let container = namespace.container(&image.name).runtime(&runtime).args(&["true"]).create().await;
        let create: TaskCreate = events.next("/tasks/create").await;
        assert_eq!(create.container_id, container.id());
        let [mount] = &create.rootfs[..] else { panic!("{runtime}: {:?}", create.rootfs) };
        assert!(mount.options.iter().any(|option| option.contains("io.containerd.snapshotter")), "{mount:?}");
        told.push((mount.r#type.clone(), mount.source.clone(), mount.target.clone(), mount.options.len()));
        container.delete().await;
    }
    assert_eq!(told[0], told[1]);
}

/// Metrics come for a running container, with its id and in a type that has a name.
async fn metrics_are_there(namespace: Namespace) {
    let mut container = demo(&namespace, &["sleep", "60"]).await;
    container.start().await;
    container.prints("sleeping 60\n").await;
    let metrics = container.metrics().await.expect("the shim answers");
    assert_eq!(metrics.iter().map(|metric| &*metric.id).collect::<Vec<_>>(), [container.id()]);
    let data = metrics[0].data.as_ref().expect("the metric has data");
    assert!(data.type_url.starts_with("io.containerd.cgroups.v"), "{}", data.type_url);
    assert!(!data.value.is_empty(), "the metric has no figures");
    container.end().await;
}

/// Standard input reaches the guest, and its end does when the client closes it.
async fn stdin_reaches_the_guest_and_ends(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "cat", |image| image.layer(program.layer("demo.wasm")));
    let mut container = namespace.container(&image.name).args(&["cat"]).stdin().create().await;
    container.start().await;
    container.write("one line\nand another\n");
    container.close_stdin().await.expect("the shim closes it");
    let exited = container.finish().await;
    assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (0, "one line\nand another\n", ""));
}

/// Calls that the shim does not offer are answered with `Unimplemented`, never with `NotFound`: the task is there.
async fn unsupported_calls_say_so(namespace: Namespace) {
    let mut container = demo(&namespace, &["sleep", "60"]).await;
    container.start().await;
    container.prints("sleeping 60\n").await;
    let request = CheckpointTaskRequest { container_id: container.id().to_owned(), ..Default::default() };
    let answer = namespace.client().tasks().checkpoint(namespace.request(request)).await;
    let status = answer.expect_err("checkpoints are not offered");
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
    assert_eq!(container.state().await.expect("the task is there").status(), Status::Running);
    container.end().await;
}

/// A task that was never started can be deleted, and its process is gone then.
async fn created_task_can_be_deleted(namespace: Namespace) {
    let container = demo(&namespace, &["echo", "never"]).await;
    let process = format!("/proc/{}", container.pid());
    assert!(std::path::Path::new(&process).exists(), "a created task has a process");
    let deleted = container.delete().await;
    assert_eq!(deleted.exit_status, 137);
    assert!(!std::path::Path::new(&process).exists(), "{process} is gone");
}

/// A running task is not deleted, and runs on.
async fn running_task_cannot_be_deleted(namespace: Namespace) {
    let mut container = demo(&namespace, &["sleep", "60"]).await;
    container.start().await;
    container.prints("sleeping 60\n").await;
    let status = container.delete_task().await.expect_err("a running task stays");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert_eq!(container.state().await.expect("the task is there").status(), Status::Running);
    container.end().await;
}

/// Ten tasks of one image, created at once, all run, and the image is compiled once.
async fn many_tasks_at_once(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "many", |image| image.layer(program.layer("demo.wasm")));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..10 {
        let (namespace, name) = (namespace.clone(), image.name.clone());
        let words = format!("number {number}");
        tasks.spawn(async move {
            let exited = namespace.container(&name).args(&["echo", &words]).run().await;
            assert_eq!((exited.code, exited.stdout), (0, format!("{words}\n")));
        });
    }
    tasks.join_all().await;
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
}
