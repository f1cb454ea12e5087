//! Pods, deployments, services and probes.

use prewasi_test::http;
use serde_json::{Value, json};

use crate::cases::record;
use crate::images::{self, PROXY, WEB};
use crate::space::{Space, container_status, deployment, items, native, pod, restarts, text, wasm, with};
use crate::trials::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(runtime_class_chooses_the_shim),
        case!(deployment_of_the_readme_runs),
        case!(service_leads_to_ready_pods),
        case!(probes_decide),
    ]
}

/// Returns the names of the runtimes with which containerd runs a pod's containers.
fn runtimes(space: &Space, pod: &Value, containers: &[&str]) -> Vec<String> {
    let runtime = |name: &&str| text(&record(space, pod, name), "/Runtime/Name").to_owned();
    containers.iter().map(runtime).collect()
}

/// The README's RuntimeClass has pods run by the shim, wasm and native containers alike. Pods without it run under runc, and a class whose
/// handler does not exist runs nothing.
async fn runtime_class_chooses_the_shim(space: &Space<'_>) {
    let of_class = |name: &str, class: Value, containers: &[Value]| {
        with(pod(name, containers), json!({ "spec": { "runtimeClassName": class } }))
    };
    let other = json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": { "name": "other" }, "handler": "other",
    });
    space.apply(&[
        of_class("ours", "wasmtime".into(), &[wasm("wasm", &[]), native("native", "sleep 1000")]),
        of_class("plain", Value::Null, &[native("native", "sleep 1000")]),
        other,
        of_class("other", "other".into(), &[wasm("wasm", &[])]),
    ]);
    let ours = "io.containerd.wasmtime.v1";
    assert_eq!(runtimes(space, &space.ready("ours").await, &["wasm", "native"]), [ours, ours]);
    assert_eq!(runtimes(space, &space.ready("plain").await, &["native"]), ["io.containerd.runc.v2"]);
    space
        .until("an event with the reason", "events?fieldSelector=involvedObject.name%3Dother", |events| {
            let messages = items(events).iter().map(|event| event["message"].to_string()).collect::<String>();
            if messages.contains("no runtime for \\\"other\\\"") { Ok(()) } else { Err(messages) }
        })
        .await;
    space.cluster.kubectl(&["delete", "runtimeclass", "other"]).success();
}

/// The README's deployment runs: two pods with a wasm container and a native side-car, each with its logs; one compile serves both pods.
/// `kubectl exec` runs a program in either.
async fn deployment_of_the_readme_runs(space: &Space<'_>) {
    let compiles = || space.cluster.daemon().journal().compiles(&images::hello_digest()).len();
    space.cluster.apply(&["--namespace", space.name()], &images::readme("yaml")[1]);
    for pod in space.deployed("hello", 2).await {
        let name = text(&pod, "/metadata/name");
        space.logs(name, "hello", "tick 1").await;
        let exec = |container: &str, words: &[&str]| {
            space.kubectl(&[&["exec", name, "--container", container, "--"], words].concat()).stdout
        };
        assert_eq!(exec("side-car", &["/bin/busybox", "cat", "/www/healthz"]), "well\n");
        assert_eq!(exec("hello", &["/hello.wasm", "echo", "from wasm"]), "from wasm\n");
        let (status, body) =
            http::get(&format!("{}:8080", text(&pod, "/status/podIP")), "/healthz").expect("an answer");
        assert_eq!((status, &*body), (200, "well\n"));
        assert_eq!((restarts(&pod, "hello"), restarts(&pod, "side-car")), (0, 0));
    }
    assert_eq!(compiles(), 1);
}

/// A service leads to the pods that are ready, and only to them: those that serve as wasm and those that serve natively. A pod that ends is
/// taken out.
async fn service_leads_to_ready_pods(space: &Space<'_>) {
    let served = |name: &str, image: &str, path: &str| {
        let probe = json!({ "httpGet": { "path": path, "port": 8080 }, "periodSeconds": 1 });
        json!({ "name": name, "image": image, "readinessProbe": probe })
    };
    let service = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "selector": { "app": name }, "ports": [{ "port": 80, "targetPort": 8080 }] },
        })
    };
    space.apply(&[
        deployment("wasm", 2, &[served("web", WEB, "/")]),
        deployment("native", 2, &[served("proxy", PROXY, "/healthz")]),
        service("wasm"),
        service("native"),
        // It belongs to the service, but is never ready.
        with(
            pod("unready", &[served("web", WEB, "/env/NONE")]),
            json!({ "metadata": { "labels": { "app": "wasm" } } }),
        ),
    ]);
    for (name, path, page) in [("wasm", "/", "hello\n"), ("native", "/healthz", "well\n")] {
        for replicas in [2, 1] {
            space.kubectl(&["scale", "deployment", name, &format!("--replicas={replicas}")]);
            for address in endpoints(space, name, replicas).await {
                assert_ne!(text(&address, "/targetRef/name"), "unready");
                let answer = http::get(&format!("{}:8080", text(&address, "/ip")), path);
                assert_eq!(answer, Ok((200, page.to_owned())));
            }
        }
        let address = format!("{}:80", text(&space.get(&format!("services/{name}")), "/spec/clusterIP"));
        let answer = space.cluster.polled("an answer of the service", || http::get(&address, path)).await;
        assert_eq!(answer, (200, page.to_owned()));
    }
}

/// Waits until a service has so many endpoints, and returns them.
async fn endpoints(space: &Space<'_>, name: &str, count: usize) -> Vec<Value> {
    space
        .until("the endpoints", &format!("endpoints/{name}"), |endpoints| {
            let ready =
                endpoints.pointer("/subsets/0/addresses").and_then(Value::as_array).cloned().unwrap_or_default();
            if ready.len() == count { Ok(ready) } else { Err(endpoints.to_string()) }
        })
        .await
}

/// Readiness, liveness and startup probes, by HTTP, by TCP and by a command, in wasm and native containers: a pod is ready once its probe
/// succeeds, and only containers whose liveness probe fails are started again.
async fn probes_decide(space: &Space<'_>) {
    let probe = |how: Value| with(how, json!({ "periodSeconds": 1, "failureThreshold": 1 }));
    let exec = |words: &[&str]| probe(json!({ "exec": { "command": words } }));
    let page = |path: &str| probe(json!({ "httpGet": { "path": path, "port": 8080 } }));
    let mut probed = pod(
        "probed",
        &[
            with(
                native("native", "touch /work/alive; sleep 1000"),
                json!({ "livenessProbe": exec(&["/bin/busybox", "test", "-e", "/work/alive"]) }),
            ),
            with(wasm("wasm", &[]), json!({ "livenessProbe": exec(&["/hello.wasm", "read", "/work/alive"]) })),
            json!({
                "name": "web",
                "image": WEB,
                "startupProbe": with(probe(json!({ "tcpSocket": { "port": 8080 } })), json!({ "failureThreshold": 60 })),
                "livenessProbe": page("/"),
                "readinessProbe": page("/file/work/ready"),
            }),
        ],
    );
    probed["spec"]["restartPolicy"] = "Always".into();
    probed["spec"]["volumes"] = json!([{ "name": "work", "emptyDir": {} }]);
    for container in probed["spec"]["containers"].as_array_mut().expect("they are a list") {
        container["volumeMounts"] = json!([{ "name": "work", "mountPath": "/work" }]);
    }
    space.apply(&[probed]);
    let path = "pods/probed";
    space
        .until("web to be started", path, |pod| {
            let status = container_status(pod, "web");
            if status["started"] == true { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    assert_eq!(container_status(&space.get(path), "web")["ready"], false);
    let shell = |script: &str| {
        space.kubectl(&["exec", "probed", "--container=native", "--", "/bin/busybox", "sh", "-c", script]);
    };
    shell("touch /work/ready");
    let before = space.ready("probed").await;
    shell("rm /work/alive");
    for name in ["native", "wasm"] {
        space
            .until(&format!("another start of {name}"), path, |pod| {
                if restarts(pod, name) > restarts(&before, name) { Ok(()) } else { Err(pod["status"].to_string()) }
            })
            .await;
    }
    let after = space.ready("probed").await;
    assert_eq!(restarts(&after, "web"), 0);
}
