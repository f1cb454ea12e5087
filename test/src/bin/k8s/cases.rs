//! The cases, by what they are about.

mod ends;
mod many;
mod pods;
mod restarts;
mod updates;
mod volumes;
mod watch;

use std::process::Command;
use std::time::Duration;

use prewasi_test::process;
use serde_json::Value;

use crate::space::{Space, container_status, text};
use crate::trials::Case;

/// Returns all cases.
pub(crate) fn all() -> Vec<Case> {
    [pods::cases(), updates::cases(), restarts::cases(), ends::cases(), volumes::cases(), watch::cases(), many::cases()]
        .concat()
}

/// Returns containerd's record of a container.
fn record(space: &Space, pod: &Value, container: &str) -> Value {
    let daemon = space.cluster.daemon();
    let id = text(container_status(pod, container), "/containerID").trim_start_matches("containerd://");
    let mut ctr: Command = daemon.command("ctr");
    ctr.arg("--address").arg(daemon.address()).args(["--namespace=k8s.io", "containers", "info", id]);
    let output = process::run(&mut ctr, Duration::from_secs(30)).success();
    serde_json::from_str(&output.stdout).expect("ctr prints JSON")
}
