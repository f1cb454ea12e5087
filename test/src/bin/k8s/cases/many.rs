//! Many pods on one node.

use std::time::Instant;

use serde_json::json;

use crate::images;
use crate::space::{Space, deployment, native, wasm, with};
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
        space.deployed(name, PODS).await;
        let ready = start.elapsed();
        space.kubectl(&["scale", "deployment", name, "--replicas=0"]);
        space
            .until("the end of all pods", "pods", |pods| match pods["items"].as_array().map(Vec::len) {
                Some(0) => Ok(()),
                left => Err(format!("{left:?} are left")),
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
