//! Kills of containerd, the shim's daemon and the tests themselves, and the processes that survive them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use containerd_client::events::TaskExit;
use containerd_client::types::v1::Status;
use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Containerd, Namespace, Series, case, eventually, home, leaks};
use rustix::process::{Pid, Signal, kill_process};

use crate::running::{ticking, ticking_as};

mod cycles;
mod disk;
mod everything;
mod pods;

pub(crate) fn cases() -> Vec<Case> {
    let more = [everything::cases(), disk::cases(), cycles::cases(), pods::cases()];
    let mut cases = vec![
        case!(containerd_restart_keeps_the_task),
        case!(exit_during_a_restart_is_reported),
        case!(killed_daemon_leaves_nothing),
        case!(killed_zygote_ends_its_daemon),
        case!(stopped_daemon_that_was_given_up_ends),
        case!(daemon_that_was_stopped_during_a_creation_ends),
        case!(container_that_was_given_up_is_removed_by_its_daemon),
        case!(cancelled_creation_leaves_no_daemon),
        case!(end_is_reported_from_disk),
        case!(killed_test_run_leaves_nothing),
    ];
    cases.extend(more.into_iter().flatten());
    cases
}

const LIMIT: Duration = Duration::from_secs(10);

/// Makes a namespace on a containerd that this test alone uses, because it is going to be killed.
pub(crate) async fn own(namespace: &Namespace) -> Namespace {
    Namespace::create(Arc::new(Containerd::start(namespace.daemon().series()).await)).await
}

/// After a SIGKILL of containerd and its restart the task is found again, same process, and can be ended and deleted.
async fn containerd_restart_keeps_the_task(namespace: Namespace) {
    let namespace = own(&namespace).await;
    let mut container = ticking(&namespace, DEMO).await;
    namespace.daemon().restart(Signal::KILL).await;
    let state = container.state().await.expect("the task is found again");
    assert_eq!((state.status(), state.pid), (Status::Running, container.pid()));
    let pids: Vec<u32> = container.pids().await.expect("the shim answers").iter().map(|process| process.pid).collect();
    assert!(pids.contains(&container.pid()), "{} in {pids:?}", container.pid());
    container.wait_again();
    container.kill(Signal::TERM).await.expect("a running container can be killed");
    assert_eq!(container.wait().await, 143);
    container.delete().await;
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// A task that ends while containerd is away has its exit code when containerd is back.
async fn exit_during_a_restart_is_reported(namespace: Namespace) {
    let namespace = own(&namespace).await;
    let container = ticking(&namespace, DEMO).await;
    let pid = Pid::from_raw(container.pid().cast_signed()).expect("a process has an id");
    namespace
        .daemon()
        .restart_after(Signal::KILL, || kill_process(pid, Signal::KILL).expect("the container runs"))
        .await;
    eventually("the end of the task", LIMIT, async || {
        let state = container.state().await.map_err(|status| status.to_string())?;
        match state.status() {
            Status::Stopped if state.exit_status == 137 => Ok(()),
            other => Err(format!("{other:?} {}", state.exit_status)),
        }
    })
    .await;
    assert_eq!(container.delete().await.exit_status, 137);
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// Kills the daemons of all shims of a namespace.
pub(crate) fn kill_daemons(namespace: &Namespace) {
    for pid in leaks::daemons(namespace) {
        let pid = Pid::from_raw(pid.cast_signed()).expect("a process has an id");
        kill_process(pid, Signal::KILL).expect("the daemon runs");
    }
}

/// How a container ended before its daemon was killed is reported from disk, with its process: that of one that still ran is 137.
async fn end_is_reported_from_disk(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "ended", |image| image.layer(program.layer("demo.wasm")));
    for (args, code) in [(&["exit", "7"][..], 7), (&["sleep", "600"], 137)] {
        let events = namespace.events().await;
        let mut container = namespace.container(&image.name).args(args).create().await;
        container.start().await;
        if code == 7 {
            assert_eq!(container.wait().await, 7);
            // The daemon tells of it too, maybe after it has answered.
            eventually("the exit that the daemon reports", LIMIT, async || {
                if events.all::<TaskExit>("/tasks/exit").is_empty() { Err("none".to_string()) } else { Ok(()) }
            })
            .await;
        } else {
            container.prints("sleeping").await;
        }
        kill_daemons(&namespace);
        let exit = eventually("the exit that delete reports", LIMIT, async || {
            // The first one of the container that had ended was the daemon's.
            let exits: Vec<TaskExit> = events.all("/tasks/exit");
            exits.into_iter().nth(usize::from(code == 7)).ok_or_else(|| format!("{:?}", events.topics("/tasks/")))
        })
        .await;
        assert_eq!((&*exit.container_id, exit.pid, exit.exit_status), (container.id(), container.pid(), code));
        container.try_delete().await;
    }
}

/// After a SIGKILL of the shim's daemon its container is killed too, and nothing of it is left.
async fn killed_daemon_leaves_nothing(namespace: Namespace) {
    let container = ticking(&namespace, DEMO).await;
    kill_daemons(&namespace);
    assert_nothing_is_left(&namespace, &container).await;
}

/// A daemon ends when the process is killed from which its helpers are forked: its container is killed too, and nothing is left.
async fn killed_zygote_ends_its_daemon(namespace: Namespace) {
    let container = ticking(&namespace, DEMO).await;
    let [zygote] = leaks::zygotes(&namespace)[..] else { panic!("{:?}", leaks::zygotes(&namespace)) };
    let zygote = Pid::from_raw(zygote.cast_signed()).expect("a process has an id");
    kill_process(zygote, Signal::KILL).expect("the zygote runs");
    assert_nothing_is_left(&namespace, &container).await;
}

/// Asserts that a container whose daemon is gone is killed, and that nothing of it is left.
async fn assert_nothing_is_left(namespace: &Namespace, container: &Container) {
    let process = format!("/proc/{}", container.pid());
    eventually("the end of the container", LIMIT, async || {
        if Path::new(&process).exists() { Err(format!("{process} is there")) } else { Ok(()) }
    })
    .await;
    eventually("the end of the task", LIMIT, async || match container.state().await {
        Err(_) => Ok(()),
        Ok(state) if state.status() == Status::Stopped => Ok(()),
        Ok(state) => Err(format!("{state:?}")),
    })
    .await;
    // A client does this then; containerd may have forgotten the task already.
    let _ = container.delete_task().await;
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// A daemon that does not answer, because it was stopped, is given up by a containerd that restarts: its container is deleted from
/// disk. When it goes on it finds that out, and ends by itself.
async fn stopped_daemon_that_was_given_up_ends(namespace: Namespace) {
    let namespace = own(&namespace).await;
    let container = ticking(&namespace, DEMO).await;
    let [daemon] = leaks::daemons(&namespace)[..] else { panic!("one daemon") };
    let pid = Pid::from_raw(daemon.cast_signed()).expect("a process has an id");
    kill_process(pid, Signal::STOP).expect("the daemon runs");
    let bundle = container.bundle();
    namespace.daemon().restart(Signal::KILL).await;
    eventually("the end of the bundle", LIMIT, async || {
        if bundle.exists() { Err(format!("{} is there", bundle.display())) } else { Ok(()) }
    })
    .await;
    assert_eq!(leaks::daemons(&namespace), [daemon]);
    kill_process(pid, Signal::CONT).expect("the daemon is there");
    daemons_end(&namespace).await;
    container.try_delete().await;
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// A daemon that is stopped before the request for its container is given up when the client gives up. When it goes on, it creates nothing
/// that stays, and ends by itself.
async fn daemon_that_was_stopped_during_a_creation_ends(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "stopped", |image| image.layer(program.layer("demo.wasm")));
    let (shim, stopping) = (home::program("containerd-shim-wasmtime-v1"), namespace.folder().join("stopping"));
    let shim = shim.display();
    // The script stops the namespace's daemons, which it knows by their command line. They are not of its own process group: the system
    // ends stopped processes of a group whose last parent ends.
    let script = format!(
        "#!/bin/sh\nname={}\ncase \"$*\" in *start) setsid --wait {shim} \"$@\" || exit 1; exec 2>/dev/null\n\
         for process in /proc/[0-9]*; do case \"$(tr '\\0' ' ' <$process/cmdline)\" in\n\
         *\"-namespace $name \"*' daemon ') kill -STOP ${{process#/proc/}} ;; esac; done ;;\n\
         *) exec {shim} \"$@\" ;; esac\n",
        namespace.name()
    );
    fs::write(&stopping, script).expect("the folder is ours");
    fs::set_permissions(&stopping, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    let builder = namespace.container(&image.name).runtime(&stopping.to_string_lossy());
    let created = tokio::time::timeout(Duration::from_secs(4), builder.try_create()).await;
    assert!(created.is_err(), "a stopped daemon does not answer: {:?}", created.map(Result::err));
    let [daemon] = leaks::daemons(&namespace)[..] else { panic!("{:?}", leaks::daemons(&namespace)) };
    let bundles = namespace.daemon().folder().join("state/io.containerd.runtime.v2.task").join(namespace.name());
    eventually("the end of the bundle", Duration::from_secs(30), async || {
        match fs::read_dir(&bundles).map(Iterator::count) {
            Ok(0) | Err(_) => Ok(()),
            Ok(count) => Err(format!("{count} are there")),
        }
    })
    .await;
    for pid in leaks::zygotes(&namespace).into_iter().chain([daemon]) {
        kill_process(Pid::from_raw(pid.cast_signed()).expect("a process has an id"), Signal::CONT)
            .expect("it is there");
    }
    daemons_end(&namespace).await;
}

/// A container that containerd has given up, and that nobody has deleted, runs only until its daemon notices. Then the daemon ends, too.
async fn container_that_was_given_up_is_removed_by_its_daemon(namespace: Namespace) {
    let namespace = own(&namespace).await;
    let container = ticking_as(&namespace, DEMO, &format!("given-up-{}", namespace.name())).await;
    let bundle = container.bundle();
    namespace
        .daemon()
        .restart_after(Signal::KILL, || {
            let unmounted = Command::new("umount").arg("-l").arg(bundle.join("rootfs")).status();
            assert!(unmounted.expect("umount is there").success());
            fs::remove_dir_all(&bundle).expect("the folder is ours");
        })
        .await;
    assert_eq!(leaks::daemons(&namespace).len(), 1);
    daemons_end(&namespace).await;
    assert_eq!(leaks::of_container(namespace.daemon(), container.id()), [""; 0]);
    container.try_delete().await;
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// Waits until daemons that nobody asks for any more have ended by themselves.
async fn daemons_end(namespace: &Namespace) {
    eventually("the end of the daemon", Duration::from_secs(70), async || match leaks::daemons(namespace)[..] {
        [] => Ok(()),
        ref left => Err(format!("{left:?} run")),
    })
    .await;
}

/// A client gives up while containerd waits for the answer of `start`, which it kills then. The daemon, which runs already, is
/// asked for nothing, and ends by itself.
async fn cancelled_creation_leaves_no_daemon(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "cancelled", |image| image.layer(program.layer("demo.wasm")));
    let (shim, slow) = (home::program("containerd-shim-wasmtime-v1"), namespace.folder().join("slow"));
    let shim = shim.display();
    // It makes the daemon, and keeps the answer to itself.
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *start) {shim} \"$@\" >/dev/null; exec sleep 600 ;; *) exec {shim} \"$@\" ;; esac\n"
    );
    fs::write(&slow, script).expect("the folder is ours");
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    let builder = namespace.container(&image.name).runtime(&slow.to_string_lossy());
    let daemon = eventually("a daemon", LIMIT, async || match leaks::daemons(&namespace)[..] {
        [daemon] => Ok(daemon),
        ref other => Err(format!("{other:?}")),
    });
    let daemon = tokio::select! {
        daemon = daemon => daemon,
        created = builder.try_create() => panic!("nobody has answered containerd: {:?}", created.err()),
    };
    let bundles = namespace.daemon().folder().join("state/io.containerd.runtime.v2.task").join(namespace.name());
    eventually("the end of the bundle", LIMIT, async || match fs::read_dir(&bundles).map(Iterator::count) {
        Ok(0) | Err(_) => Ok(()),
        Ok(count) => Err(format!("{count} are there")),
    })
    .await;
    assert_eq!(leaks::daemons(&namespace), [daemon]);
    daemons_end(&namespace).await;
}

/// Tells a copy of this program to run a container until it is killed, on this series.
const RUN: &str = "PREWASI_TEST_RUN_UNTIL_KILLED";

/// Runs a container until killed, if this process was started by [`killed_test_run_leaves_nothing`]; says whether it was.
pub(crate) fn ran_until_killed_as_asked() -> bool {
    let Ok(series) = std::env::var(RUN) else { return false };
    let series = Series::all().into_iter().find(|known| known.to_string() == series).expect("the series is known");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(async {
        let namespace = Namespace::create(Arc::new(Containerd::start(series).await)).await;
        let _container = ticking(&namespace, DEMO).await;
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{}", namespace.daemon().folder().display()).expect("the parent listens");
        stdout.flush().expect("the parent listens");
        // Until the parent kills this process, or is gone itself.
        let _ = std::io::stdin().read(&mut [0]);
    });
    true
}

/// A test run that is killed with SIGKILL leaves no containerd, no shim, no container, no mount, no folder.
async fn killed_test_run_leaves_nothing(namespace: Namespace) {
    let mut child = Command::new("/proc/self/exe")
        .env(RUN, namespace.daemon().series().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts again");
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().expect("stdout is piped"));
    std::io::BufRead::read_line(&mut stdout, &mut line).expect("the child says where");
    let folder = PathBuf::from(line.trim_end());
    assert!(folder.join("c.sock").exists(), "{} is a containerd's folder", folder.display());
    child.kill().expect("the child runs");
    child.wait().expect("the child is ours");
    eventually("nothing", LIMIT, async || {
        let left = leaks::of_folder(&folder);
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    })
    .await;
}
