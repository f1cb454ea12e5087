//! Many pods on one node.

use std::time::Instant;

use serde_json::json;

use crate::images;
use crate::space::{Space, deployment, items, native, wasm, with};
use crate::trials::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    vec![case!(hundred_pods_run_and_end, alone)]
}

const PODS: usize = 100;

/// A hundred pods with a wasm program become ready, from code that was compiled once, and end again. The times are printed beside those of
/// a hundred pods with a native program under runc.
async fn hundred_pods_run_and_end(space: &Space<'_>) {
    let plain = with(
        deployment("native", PODS, &[native("native", "trap exit TERM; sleep 1000 & wait")]),
        json!({ "spec": { "template": { "spec": { "runtimeClassName": null } } } }),
    );
    for (name, pods) in [("wasm", deployment("wasm", PODS, &[wasm("wasm", &[])])), ("native", plain)] {
        let start = Instant::now();
        space.apply(&[pods]);
        space
            .until("all pods to be ready", &format!("deployments/{name}"), |deployment| {
                let status = &deployment["status"];
                if status["readyReplicas"] == PODS { Ok(()) } else { Err(status.to_string()) }
            })
            .await;
        let ready = start.elapsed();
        space.kubectl(&["scale", "deployment", name, "--replicas=0"]);
        space
            .until("the end of all pods", "pods?limit=1", |pods| match items(pods).first() {
                None => Ok(()),
                Some(pod) => Err(format!("{} is left", pod["metadata"]["name"])),
            })
            .await;
        let ended = start.elapsed() - ready;
        eprintln!(
            "k8s: {PODS} pods, {name}: ready in {:.0} s, ended in {:.0} s",
            ready.as_secs_f64(),
            ended.as_secs_f64()
        );
    }
    let journal = space.cluster.daemon().journal();
    assert_eq!(journal.compiles(&images::hello_digest()).len(), 1);
}
