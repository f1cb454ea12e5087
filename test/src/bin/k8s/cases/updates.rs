//! Updates, rollbacks and drains under load.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::NODE;
use crate::images::{WEB, WEB_NEXT};
use crate::load::{Load, Tally};
use crate::space::{Space, deployment, is_ready, items, text, with};
use crate::trials::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(update_and_rollback_lose_no_request, alone),
        case!(update_without_a_wait_answers_what_has_begun, alone),
        case!(drain_answers_what_has_begun, alone),
    ]
}

/// A request that takes a second: a stop finds some in flight.
const SLOW: &str = "/sleep/1000";
const VERSION: &str = "/env/VERSION";

/// Describes how a server is stopped only when no service leads to it any more. This Kubernetes puts a slash before the path, whether it has
/// one or not.
fn wait() -> Value {
    json!({ "preStop": { "httpGet": { "path": "sleep/3000", "port": 8080 } } })
}

fn servers(replicas: usize, lifecycle: &Value) -> Value {
    let probe = json!({ "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 });
    let web = json!({ "name": "web", "image": WEB, "readinessProbe": probe, "lifecycle": lifecycle });
    let strategy = json!({ "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } });
    with(
        deployment("web", replicas, &[web]),
        json!({ "spec": { "strategy": strategy, "template": { "spec": { "terminationGracePeriodSeconds": 20 } } } }),
    )
}

/// Deploys servers, and returns the address of their service, which answers.
async fn serve(space: &Space<'_>, replicas: usize, lifecycle: &Value) -> String {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    });
    space.apply(&[servers(replicas, lifecycle), service]);
    space.deployed("web", replicas).await;
    let address = format!("{}:80", text(&space.get("services/web"), "/spec/clusterIP"));
    space.cluster.polled("an answer of the service", || prewasi_test::http::get(&address, "/")).await;
    address
}

/// Asserts that each request was answered, and that these versions were among those that answered. The pods before an update may still answer
/// on kept connections.
fn assert_all_answered(tally: &Tally, versions: &[&str]) {
    assert!(tally.failures.is_empty(), "{tally:?}");
    assert!(versions.iter().all(|version| tally.answers.contains_key(*version)), "{tally:?}");
}

/// A rolling update, an update to an image that does not exist, and rollbacks answer every request, on new and on kept connections, also
/// those that take longer than the removal of their pod's address.
async fn update_and_rollback_lose_no_request(space: &Space<'_>) {
    let address = serve(space, 3, &wait()).await;
    let set = |image: &str| space.kubectl(&["set", "image", "deployment/web", &format!("web={image}")]);
    let settled = || space.kubectl(&["rollout", "status", "deployment/web", "--timeout=110s"]);
    let load = Load::start(&address, &[VERSION, SLOW]);
    set(WEB_NEXT);
    settled();
    let tally = load.end();
    assert_all_answered(&tally, &["1", "2"]);

    let load = Load::start(&address, &[VERSION, SLOW]);
    set("registry.example/web:none");
    let stuck = space.try_kubectl(&["rollout", "status", "deployment/web", "--timeout=5s"]);
    assert!(!stuck.status.success(), "{stuck}");
    space.kubectl(&["rollout", "undo", "deployment/web"]);
    settled();
    let tally = load.end();
    assert_all_answered(&tally, &["2"]);

    let load = Load::start(&address, &[VERSION, SLOW]);
    space.kubectl(&["rollout", "undo", "deployment/web", "--to-revision=1"]);
    settled();
    let tally = load.end();
    assert_all_answered(&tally, &["1", "2"]);
}

/// Without a wait before the stop, connections can be refused until the service leads past the pod that ends. Every request that a server
/// has begun to answer is answered.
async fn update_without_a_wait_answers_what_has_begun(space: &Space<'_>) {
    let address = serve(space, 3, &json!({})).await;
    let load = Load::start(&address, &[VERSION, SLOW]);
    space.kubectl(&["set", "image", "deployment/web", &format!("web={WEB_NEXT}")]);
    space.kubectl(&["rollout", "status", "deployment/web", "--timeout=110s"]);
    let tally = load.end();
    eprintln!("k8s: update without a wait: {} refused, answered {:?}", tally.failures.len(), tally.answers);
    // A slow request takes a second. A connection that no server has accepted is closed at once.
    let cut: Vec<_> = tally.failures.iter().filter(|(after, _)| *after >= Duration::from_millis(300)).collect();
    assert!(cut.is_empty(), "{cut:?}");
    assert!(["1", "2", "slept\n"].iter().all(|body| tally.answers.contains_key(*body)), "{tally:?}");
}

/// A drain ends pods only when they have answered what has begun. Their successors wait for a node, and run once it takes pods again.
async fn drain_answers_what_has_begun(space: &Space<'_>) {
    let address = serve(space, 2, &wait()).await;
    let pods = space.deployed("web", 2).await;
    // These go on until after the drain: each has begun before it, on a connection to a pod of its own.
    let begun: Vec<_> = pods.iter().map(|pod| format!("{}:8080", text(pod, "/status/podIP"))).map(slow).collect();
    let drain = ["drain", NODE, "--pod-selector=app=web", "--ignore-daemonsets", "--timeout=100s"];
    space.kubectl(&drain);
    for answer in begun {
        assert_eq!(answer.join().expect("it does not panic"), Ok((200, "slept\n".to_owned())));
    }
    let names = |pods: &[Value]| pods.iter().map(|pod| text(pod, "/metadata/name").to_owned()).collect::<Vec<_>>();
    let waiting = items(&space.get("pods"));
    assert!(waiting.iter().all(|pod| !is_ready(pod)), "{waiting:?}");
    assert!(names(&pods).iter().all(|name| !names(&waiting).contains(name)), "{waiting:?}");
    space.kubectl(&["uncordon", NODE]);
    space.deployed("web", 2).await;
    space.cluster.polled("an answer of the service", || prewasi_test::http::get(&address, "/")).await;
}

/// Sends a request whose answer takes longer than the wait before the end.
fn slow(address: String) -> std::thread::JoinHandle<Result<(u16, String), String>> {
    std::thread::spawn(move || prewasi_test::http::get(&address, "/sleep/4000"))
}
