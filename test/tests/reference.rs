//! The harness against runc: the reference meets the expectations that the other tests have of our shim.

use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};
use rustix::process::Signal;
use tonic::Code;

use crate::busybox;

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(runc_prints_and_exits, needs Runc Busybox), case!(runc_is_ended_by_signals, needs Runc Busybox)]
}

const RUNTIME: &str = "io.containerd.runc.v2";

/// Output, streams and exit codes arrive as from our shim.
async fn runc_prints_and_exits(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let container = || namespace.container(&image.name).runtime(RUNTIME);
    let exited = container().args(&["echo", "hello", "world"]).run().await;
    assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (0, "hello world\n", ""));
    let exited = container().args(&["sh", "-c", "echo error >&2; exit 7"]).run().await;
    assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (7, "", "error\n"));
}

/// A signal's exit code is 128 and its number, and who has ended is not found.
async fn runc_is_ended_by_signals(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let script = "trap 'exit 143' TERM; echo ready; while :; do sleep 1; done";
    let container = namespace.container(&image.name).runtime(RUNTIME).args(&["sh", "-c", script]);
    let mut container = container.create().await;
    container.start().await;
    container.prints("ready\n").await;
    container.kill(Signal::TERM).await.expect("a running container can be killed");
    assert_eq!(container.wait().await, 143);
    let status = container.kill(Signal::TERM).await.expect_err("there is nobody to be killed");
    assert_eq!(status.code(), Code::NotFound, "{status}");
    container.delete().await;

    let mut container = namespace.container(&image.name).runtime(RUNTIME).args(&["sleep", "60"]).create().await;
    container.start().await;
    container.kill(Signal::KILL).await.expect("a running container can be killed");
    assert_eq!(container.wait().await, 137);
    container.delete().await;
}
