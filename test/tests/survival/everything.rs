//! Restarts of containerd, and a new shim in the place of the old one, while all kinds of processes run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use containerd_client::types::v1::Status;
use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Imported, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case, eventually, home};
use rustix::process::{Pid, Signal, kill_process};

use super::own;
use crate::busybox;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(everything_survives_a_stop_of_containerd, needs Busybox),
        case!(everything_survives_a_kill_of_containerd, needs Busybox),
        case!(ends_while_containerd_is_away_are_reported, needs Busybox),
        case!(shim_is_replaced_while_containers_run),
        case!(killed_daemons_take_everything_with_them, needs Busybox),
    ]
}

const LIMIT: Duration = Duration::from_secs(20);
const TICKS: &str = "i=0; while :; do i=$((i+1)); echo tick $i; busybox sleep 0.2; done";

fn wasm(namespace: &Namespace) -> Imported {
    let program = Program::guest(namespace, DEMO);
    image::import(namespace, "demo", |image| image.layer(program.layer("demo.wasm")))
}

/// A wasm container, a native one, one with a terminal, a process in the native one, and one with a terminal there: all tick.
async fn everything(namespace: &Namespace) -> Vec<Container> {
    let (wasm, native) = (wasm(namespace), busybox::image(namespace));
    let mut module = namespace.container(&wasm.name).create().await;
    let mut program = namespace.container(&native.name).args(&["sh", "-c", TICKS]).create().await;
    let mut terminal = namespace.container(&wasm.name).terminal().stdin().create().await;
    for container in [&mut module, &mut program, &mut terminal] {
        container.start().await;
    }
    let mut process = program.exec(&["/bin/busybox", "sh", "-c", TICKS]).create().await;
    process.start().await;
    let mut wasm_process = module.exec(&["demo.wasm"]).terminal().create().await;
    wasm_process.start().await;
    let all = vec![process, wasm_process, module, program, terminal];
    for process in &all {
        process.prints("tick 1").await;
    }
    all
}

async fn assert_all_survive(namespace: Namespace, signal: Signal) {
    let namespace = own(&namespace).await;
    let mut all = everything(&namespace).await;
    namespace.daemon().restart(signal).await;
    for process in &mut all {
        let state = process.state().await.expect("it is found again");
        assert_eq!((state.status(), state.pid), (Status::Running, process.pid()));
        let before = process.stdout().len();
        eventually(
            "more output",
            LIMIT,
            async || {
                if process.stdout().len() > before { Ok(()) } else { Err(process.stdout()) }
            },
        )
        .await;
        process.wait_again();
    }
    // Processes first: they end with their container else.
    for mut process in all {
        process.kill(Signal::KILL).await.expect("it runs");
        assert_eq!(process.wait().await, 137);
        process.delete().await;
    }
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// After SIGTERM and a restart of containerd all is found again: number, state, output, terminals; and can be ended.
async fn everything_survives_a_stop_of_containerd(namespace: Namespace) {
    assert_all_survive(namespace, Signal::TERM).await;
}

/// The same after SIGKILL.
async fn everything_survives_a_kill_of_containerd(namespace: Namespace) {
    assert_all_survive(namespace, Signal::KILL).await;
}

/// A container that ends while containerd is away has ended when containerd is back, with its exit code. Its output of that time is there.
async fn ends_while_containerd_is_away_are_reported(namespace: Namespace) {
    let namespace = own(&namespace).await;
    let all = everything(&namespace).await;
    let pids: Vec<u32> = all.iter().map(Container::pid).collect();
    let lengths: Vec<usize> = all.iter().map(|process| process.stdout().len()).collect();
    namespace
        .daemon()
        .restart_after(Signal::KILL, || {
            // They write at least once more, while nobody but this test listens.
            std::thread::sleep(Duration::from_millis(1200));
            for pid in pids {
                kill_process(Pid::from_raw(pid.cast_signed()).expect("an id"), Signal::TERM).expect("it runs");
            }
        })
        .await;
    for (process, length) in all.into_iter().zip(lengths) {
        // A shell that waits for a child ends when that has; as the first process of a container it ignores the signal.
        eventually("the end of a process", LIMIT, async || {
            let state = process.state().await.map_err(|status| status.to_string())?;
            match (state.status(), state.exit_status) {
                (Status::Stopped, 143) => Ok(()),
                (Status::Running, _) => {
                    let _ = process.kill(Signal::KILL).await;
                    Err("it ignores SIGTERM".to_owned())
                }
                (Status::Stopped, 137) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert!(process.stdout().len() > length);
        process.delete().await;
    }
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// The file of the shim is replaced while a container runs. Its daemon goes on, and so do execution, signals and deletion. New containers
/// have the new shim.
async fn shim_is_replaced_while_containers_run(namespace: Namespace) {
    let image = wasm(&namespace);
    let folder = namespace.folder().join("bin");
    fs::create_dir(&folder).expect("the folder is ours");
    let shim = folder.join("containerd-shim-wasmtime-v1");
    let install = || {
        let new = folder.join("new");
        home::copy_program("containerd-shim-wasmtime-v1", &new);
        fs::rename(&new, &shim).expect("the folder is ours");
    };
    install();
    let runtime = shim.to_string_lossy().into_owned();
    let mut old = namespace.container(&image.name).runtime(&runtime).create().await;
    old.start().await;
    old.prints("tick 1\n").await;
    install();
    let exited = old.exec(&["demo.wasm", "echo", "still"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "still\n"));
    let exited = namespace.container(&image.name).runtime(&runtime).args(&["echo", "new"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "new\n"));
    old.kill(Signal::TERM).await.expect("it runs");
    assert_eq!(old.wait().await, 143);
    old.delete().await;
}

/// Daemons that are killed take all kinds of processes with them, paused ones and logging programs too.
async fn killed_daemons_take_everything_with_them(namespace: Namespace) {
    let all = everything(&namespace).await;
    let (image, log) = (wasm(&namespace), namespace.folder().join("log"));
    let mut paused = namespace.container(&image.name).create().await;
    paused.start().await;
    paused.prints("tick 1\n").await;
    paused.pause().await.expect("it can be paused");
    let logger = namespace.folder().join("logger");
    fs::write(&logger, format!("#!/bin/sh\nexec 5<&-\nexec cat <&3 >{}\n", log.display())).expect("the folder is ours");
    fs::set_permissions(&logger, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    let builder = namespace.container(&image.name).output(&format!("binary://{}", logger.display()));
    let mut logged = builder.create().await;
    logged.start().await;
    super::kill_daemons(&namespace);
    for process in all.into_iter().chain([paused, logged]) {
        process.try_delete().await;
    }
    namespace.clear().await;
    namespace.assert_clean().await;
}
