//! Pods whose daemon is killed. containerd 2.x calls the shim's `delete` for the sandbox alone then.

use std::fs;
use std::process::Command;
use std::time::Duration;

use k8s_cri::v1::{
    ContainerConfig, ContainerState, ExecSyncRequest, LinuxContainerConfig, LinuxContainerSecurityContext,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
};
use oci_tar_builder::{Format, Layer};
use prewasi_test::cri::{self, Cri};
use prewasi_test::guests::{self, DEMO};
use prewasi_test::image::{Program, files};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, eventually, leaks};
use rustix::process::{Pid, Signal, kill_process};

use super::{kill_daemons, own};
use crate::busybox;
use crate::running::{ticking, ticking_as};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(killed_daemon_of_a_pod_leaves_nothing, needs Busybox Cni),
        case!(stopped_daemon_of_a_pod_that_was_given_up_ends, needs Busybox Cni),
        case!(sandbox_that_ends_takes_nobody_along, needs Busybox Cni),
        case!(forgotten_container_is_removed_by_the_next_daemon),
    ]
}

const LIMIT: Duration = Duration::from_secs(30);

fn demo() -> Layer {
    Program::new(fs::read(guests::path(DEMO)).expect("the guest is there")).layer("demo.wasm")
}

/// Each container has processes of its own: none of them ends because the sandbox's does.
fn apart() -> Option<NamespaceOption> {
    Some(NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() })
}

fn pod(cri: &Cri, name: &str) -> PodSandboxConfig {
    let mut config = cri.pod_config(name);
    let context = LinuxSandboxSecurityContext { namespace_options: apart(), ..Default::default() };
    config.linux.get_or_insert_default().security_context = Some(context);
    config
}

fn container(name: &str, image: &str, args: &[&str]) -> ContainerConfig {
    let context = LinuxContainerSecurityContext { namespace_options: apart(), ..Default::default() };
    let linux = LinuxContainerConfig { security_context: Some(context), ..Default::default() };
    ContainerConfig { linux: Some(linux), ..cri::container(name, image, args) }
}

/// Pushes and pulls the demo program and busybox.
async fn images(cri: &Cri) -> (String, String) {
    let wasm = cri.push("demo:v1", Format::Image, |image| image.layer(demo()));
    let layer = files(&[("/bin/busybox", &busybox::bytes(), 0o755)]);
    let native =
        cri.push("busybox:v1", Format::Image, |image| image.os("linux").entrypoint(["/bin/busybox"]).layer(layer));
    for image in [&wasm, &native] {
        cri.pull(image).await;
    }
    (wasm, native)
}

async fn is_gone(cri: &Cri, id: &str) {
    eventually(&format!("nothing of container {id}"), LIMIT, async || {
        let left = leaks::of_container(&cri.daemon, id);
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    })
    .await;
}

/// A kill of a pod's daemon kills the whole pod: the sandbox, a wasm container, a native one that ignores SIGTERM, and its exec process. No
/// process, mount, cgroup or state is left, and the kubelet sees the containers as ended. Another pod runs on.
async fn killed_daemon_of_a_pod_leaves_nothing(namespace: Namespace) {
    let cri = Cri::start(namespace.daemon().series(), &busybox::bytes(), "").await;
    let (wasm, native) = images(&cri).await;
    let (pod, other) = (cri.run_pod(pod(&cri, "killed")).await, cri.run_pod(pod(&cri, "other")).await);
    let ticks = container("ticking", &wasm, &[]);
    let module = cri.run(&pod, ticks.clone()).await;
    let deaf = container("deaf", &native, &["sh", "-c", "trap '' TERM; while :; do busybox sleep 1; done"]);
    let program = cri.run(&pod, deaf).await;
    let survivor = cri.run(&other, ticks.clone()).await;
    cri.logs(&pod, &ticks, "stdout", "tick 1").await;
    cri.logs(&other, &ticks, "stdout", "tick 1").await;
    let cmd = ["/bin/busybox", "sleep", "600"].map(str::to_owned).to_vec();
    let request = ExecSyncRequest { container_id: program.clone(), cmd, timeout: 0 };
    let mut runtime = cri.runtime.clone();
    let executed = tokio::spawn(async move { runtime.exec_sync(request).await });
    eventually("the process that is executed", LIMIT, async || {
        let left = leaks::of_container(&cri.daemon, &program);
        if left.iter().any(|left| left.contains("sleep 600")) { Ok(()) } else { Err(left.join("; ")) }
    })
    .await;

    let [daemon] = leaks::daemons_of_pod(&cri.daemon, &pod.id)[..] else { panic!("one daemon") };
    kill_process(Pid::from_raw(daemon.cast_signed()).expect("a process has an id"), Signal::KILL).expect("it runs");
    for id in [&pod.id, &module, &program] {
        is_gone(&cri, id).await;
    }
    let notes = cri.daemon.runtime_dir().join("r");
    eventually("the end of the removals", LIMIT, async || match fs::read_dir(&notes).map(Iterator::count) {
        Ok(0) | Err(_) => Ok(()),
        Ok(count) => Err(format!("{count} are noted")),
    })
    .await;
    assert!(executed.await.expect("the task ends").is_err(), "nobody can say how it ended");
    for id in [&module, &program] {
        assert_eq!(cri.exited(id).await.state(), ContainerState::ContainerExited);
    }

    assert_eq!(cri.status(&survivor).await.state(), ContainerState::ContainerRunning);
    let before = cri.log(&other, &ticks).len();
    eventually("another tick", LIMIT, async || {
        if cri.log(&other, &ticks).len() > before { Ok(()) } else { Err(before.to_string()) }
    })
    .await;
    assert_eq!(leaks::daemons_of_pod(&cri.daemon, &other.id).len(), 1);
    cri.finish().await;
}

/// The daemon of a pod that does not answer, because it was stopped, is given up by a containerd that restarts. When it goes on it ends by
/// itself, and nothing of the pod is left.
async fn stopped_daemon_of_a_pod_that_was_given_up_ends(namespace: Namespace) {
    let cri = Cri::start(namespace.daemon().series(), &busybox::bytes(), "").await;
    let (wasm, native) = images(&cri).await;
    let pod = cri.run_pod(pod(&cri, "stopped")).await;
    let ticks = container("ticking", &wasm, &[]);
    let module = cri.run(&pod, ticks.clone()).await;
    let program = cri.run(&pod, container("sleeping", &native, &["sleep", "600"])).await;
    cri.logs(&pod, &ticks, "stdout", "tick 1").await;
    let [daemon] = leaks::daemons_of_pod(&cri.daemon, &pod.id)[..] else { panic!("one daemon") };
    let pid = Pid::from_raw(daemon.cast_signed()).expect("a process has an id");
    kill_process(pid, Signal::STOP).expect("it runs");
    let bundles = cri.daemon.folder().join("state/io.containerd.runtime.v2.task/k8s.io");
    cri.daemon.restart(Signal::KILL).await;
    eventually("the end of the bundles", LIMIT, async || match fs::read_dir(&bundles).map(Iterator::count) {
        Ok(0) | Err(_) => Ok(()),
        Ok(count) => Err(format!("{count} are there")),
    })
    .await;
    assert_eq!(leaks::daemons_of_pod(&cri.daemon, &pod.id), [daemon]);
    kill_process(pid, Signal::CONT).expect("it is there");
    eventually("the end of the daemon", Duration::from_secs(70), async || {
        match leaks::daemons_of_pod(&cri.daemon, &pod.id)[..] {
            [] => Ok(()),
            ref left => Err(format!("{left:?} run")),
        }
    })
    .await;
    for id in [&pod.id, &module, &program] {
        is_gone(&cri, id).await;
    }
    cri.finish().await;
}

/// A sandbox that ends by itself, while its daemon lives, is deleted alone: the other containers of the pod run on, as with runc.
async fn sandbox_that_ends_takes_nobody_along(namespace: Namespace) {
    let cri = Cri::start(namespace.daemon().series(), &busybox::bytes(), "").await;
    let (wasm, _) = images(&cri).await;
    let pod = cri.run_pod(pod(&cri, "headless")).await;
    let ticks = container("ticking", &wasm, &[]);
    let id = cri.run(&pod, ticks.clone()).await;
    cri.logs(&pod, &ticks, "stdout", "tick 1").await;
    for pid in leaks::processes_of_container(&cri.daemon, &pod.id) {
        kill_process(Pid::from_raw(pid.cast_signed()).expect("a process has an id"), Signal::KILL).expect("it runs");
    }
    is_gone(&cri, &pod.id).await;
    // As long as the shim's `delete` for the sandbox may take.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(cri.status(&id).await.state(), ContainerState::ContainerRunning);
    let before = cri.log(&pod, &ticks).len();
    eventually("another tick", LIMIT, async || {
        if cri.log(&pod, &ticks).len() > before { Ok(()) } else { Err(before.to_string()) }
    })
    .await;
    cri.finish().await;
}

/// If a daemon was killed, and containerd has removed a container's bundle without a call to the shim, the namespace's next daemon removes
/// the container.
async fn forgotten_container_is_removed_by_the_next_daemon(namespace: Namespace) {
    let namespace = own(&namespace).await;
    let container = ticking_as(&namespace, DEMO, &format!("forgotten-{}", namespace.name())).await;
    let (id, bundle) = (container.id().to_owned(), container.bundle());
    namespace
        .daemon()
        .restart_after(Signal::KILL, || {
            kill_daemons(&namespace);
            let unmounted = Command::new("umount").arg("-l").arg(bundle.join("rootfs")).status();
            assert!(unmounted.expect("umount is there").success());
            fs::remove_dir_all(&bundle).expect("the folder is ours");
        })
        .await;
    let process = format!("/proc/{}", container.pid());
    assert!(fs::exists(&process).expect("/proc is mounted"), "nobody has ended it");
    let next = ticking(&namespace, DEMO).await;
    eventually("nothing of the container", LIMIT, async || {
        let left = leaks::of_container(namespace.daemon(), &id);
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    })
    .await;
    next.end().await;
    container.try_delete().await;
    namespace.clear().await;
    namespace.assert_clean().await;
}
