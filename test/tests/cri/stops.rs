//! How the kubelet stops a container that names its own way to be stopped.

use std::time::{Duration, Instant};

use oci_tar_builder::Format;
use prewasi_test::cri::container;
use prewasi_test::guests::DEMO;
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};

use super::{guest, start};

pub(super) fn cases() -> Vec<Case> {
    vec![case!(stop_signal_of_the_pod_is_heard, needs Busybox Cni)]
}

/// The kubelet's stop of a container whose image names another signal is heard, long before the end of the grace period.
async fn stop_signal_of_the_pod_is_heard(namespace: Namespace) {
    let cri = start(&namespace, "").await;
    let image = cri.push("usr1:v1", Format::Image, |image| {
        image.layer(guest(DEMO)).env("PREWASI_STOP", "stdin").stop_signal("SIGUSR1")
    });
    cri.pull(&image).await;
    let pod = cri.run_pod(cri.pod_config("stopped")).await;
    let id = cri.run(&pod, container("hearing", &image, &["cat"])).await;
    let start = Instant::now();
    cri.stop(&id, 20).await;
    let status = cri.exited(&id).await;
    assert_eq!((status.exit_code, &*status.reason), (0, "Completed"));
    assert!(start.elapsed() < Duration::from_secs(10), "it took {:?} to end", start.elapsed());
    cri.finish().await;
}
