//! A node whose disk is full.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::types::v1::Status;
use prewasi_test::guests::DEMO;
use prewasi_test::trial::Case;
use prewasi_test::{Containerd, Namespace, case, eventually, leaks};
use rustix::process::Signal;

use crate::running::ticking;

pub(super) fn cases() -> Vec<Case> {
    vec![case!(killed_daemon_leaves_nothing_on_a_full_disk), case!(container_ends_on_a_full_disk)]
}

const LIMIT: Duration = Duration::from_secs(20);
/// Where containerd and the shims write.
const FOLDERS: [&str; 3] = ["root", "state", "run"];

/// Makes a namespace on a containerd whose folders are small file systems.
async fn small(namespace: &Namespace) -> Namespace {
    let prepare = |folder: &Path| {
        for name in FOLDERS {
            let folder = folder.join(name);
            fs::create_dir_all(&folder).expect("the folder is ours");
            let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "small"]).arg(&folder).status();
            assert!(mounted.expect("mount is there").success());
        }
    };
    Namespace::create(Arc::new(Containerd::start_on(namespace.daemon().series(), prepare).await)).await
}

fn fill(namespace: &Namespace) {
    for name in FOLDERS {
        let mut file = File::create(namespace.daemon().folder().join(name).join("filler")).expect("a file can be made");
        let zeros = vec![0; 64 << 10];
        while file.write_all(&zeros).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
    }
}

fn empty(namespace: &Namespace) {
    for name in FOLDERS {
        fs::remove_file(namespace.daemon().folder().join(name).join("filler")).expect("it was made");
    }
}

/// With a full disk too, a daemon that is killed takes its container with it, and nothing is left.
async fn killed_daemon_leaves_nothing_on_a_full_disk(namespace: Namespace) {
    let namespace = small(&namespace).await;
    let container = ticking(&namespace, DEMO).await;
    fill(&namespace);
    let process = format!("/proc/{}", container.pid());
    super::kill_daemons(&namespace);
    eventually("the end of the container", LIMIT, async || {
        if Path::new(&process).exists() { Err(format!("{process} is there")) } else { Ok(()) }
    })
    .await;
    eventually("no process, mount, cgroup or socket", LIMIT, async || {
        let left = leaks::of_daemon(namespace.daemon());
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    })
    .await;
    empty(&namespace);
    let _ = container.delete_task().await;
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// A container that runs when the disk fills up is told as ended, and deleted, like any other.
async fn container_ends_on_a_full_disk(namespace: Namespace) {
    let namespace = small(&namespace).await;
    let mut container = ticking(&namespace, DEMO).await;
    fill(&namespace);
    assert_eq!(container.state().await.expect("it is there").status(), Status::Running);
    container.kill(Signal::TERM).await.expect("it runs");
    assert_eq!(container.wait().await, 143);
    let deleted = container.delete_task().await.expect("it can be deleted");
    assert_eq!(deleted.exit_status, 143);
    eventually("no process, mount, cgroup or socket", LIMIT, async || {
        let left = leaks::of_daemon(namespace.daemon());
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    })
    .await;
    empty(&namespace);
    namespace.clear().await;
    namespace.assert_clean().await;
}
