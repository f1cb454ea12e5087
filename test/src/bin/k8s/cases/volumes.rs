//! Files that Kubernetes puts into containers, and programs that it runs before and after them.

use std::fs;

use serde_json::{Value, json};

use crate::space::{Space, container_status, items, native, pod, restarts, text, wasm, with};
use crate::trials::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(volumes_and_variables_are_those_of_native_containers),
        case!(changed_config_reaches_running_containers),
        case!(init_containers_run_in_order),
        case!(hooks_run),
    ]
}

/// Returns a config map and a secret.
fn sources() -> [Value; 2] {
    let source = |kind: &str, field: &str, value: &str| {
        json!({
            "apiVersion": "v1", "kind": kind, "metadata": { "name": "source" },
            field: { "text": value, "other": "not mounted by its path\n" },
        })
    };
    [source("ConfigMap", "data", "from a config map\n"), source("Secret", "stringData", "from a secret\n")]
}

/// Adds all volumes and variables to a container.
fn mounted(container: Value) -> Value {
    let mount = |name: &str, path: &str| json!({ "name": name, "mountPath": path, "readOnly": true });
    let variable = |name: &str, from: Value| json!({ "name": name, "valueFrom": from });
    with(
        container,
        json!({
            "env": [
                variable("FROM_CONFIG", json!({ "configMapKeyRef": { "name": "source", "key": "text" } })),
                variable("FROM_SECRET", json!({ "secretKeyRef": { "name": "source", "key": "text" } })),
                variable("FROM_POD", json!({ "fieldRef": { "fieldPath": "metadata.name" } })),
            ],
            "volumeMounts": [
                mount("config", "/config"),
                mount("secret", "/secret"),
                with(mount("config", "/single/file"), json!({ "subPath": "text" })),
                mount("projected", "/projected"),
            ],
        }),
    )
}

fn volumes() -> Value {
    json!([
        { "name": "config", "configMap": { "name": "source" } },
        { "name": "secret", "secret": { "secretName": "source", "defaultMode": 0o400 } },
        { "name": "projected", "projected": { "sources": [
            { "serviceAccountToken": { "audience": "somebody", "path": "token" } },
            { "configMap": { "name": "source", "items": [{ "key": "text", "path": "deep/text" }] } },
            { "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
        ] } },
    ])
}

/// Config maps, secrets, single files of them, projected tokens and the pod's own data: a wasm container reads the same files and variables
/// as a native one.
async fn volumes_and_variables_are_those_of_native_containers(space: &Space<'_>) {
    space.apply(&sources());
    let mut containers = Vec::new();
    let files = [
        ("config", "/config/text", "from a config map\n"),
        ("secret", "/secret/text", "from a secret\n"),
        ("single", "/single/file", "from a config map\n"),
        ("deep", "/projected/deep/text", "from a config map\n"),
        ("labels", "/projected/labels", "app=\"reading\""),
        ("token", "/projected/token", ""),
    ];
    for (name, path, _) in files {
        containers.push(mounted(wasm(&format!("{name}-wasm"), &["read", path])));
        containers.push(mounted(native(&format!("{name}-native"), &format!("/bin/busybox cat {path}"))));
    }
    containers.push(mounted(wasm("variables", &["env"])));
    space.apply(&[with(pod("reading", &containers), json!({ "spec": { "volumes": volumes() } }))]);
    let log = async |container: &str| {
        assert_eq!(space.ended("reading", container).await, (0, "Completed".to_owned()), "{container}");
        space.log("reading", container).expect("the kubelet answers")
    };
    for (name, _, expected) in files {
        let (wasm, native) = (log(&format!("{name}-wasm")).await, log(&format!("{name}-native")).await);
        assert_eq!(wasm, native, "{name}");
        if name == "token" {
            assert_eq!(wasm.split('.').count(), 3, "a token has three parts: {wasm}");
        } else {
            assert_eq!(wasm, expected, "{name}");
        }
    }
    let variables = log("variables").await;
    for line in ["FROM_CONFIG=from a config map", "FROM_SECRET=from a secret", "FROM_POD=reading"] {
        assert!(variables.lines().any(|found| found == line), "{line} in {variables}");
    }
}

/// A changed config map reaches a volume of a running wasm container, and not a single file of it, as in a native one.
async fn changed_config_reaches_running_containers(space: &Space<'_>) {
    space.apply(&sources());
    let containers = [mounted(wasm("wasm", &[])), mounted(native("native", "sleep 1000"))];
    space.apply(&[with(pod("reading", &containers), json!({ "spec": { "volumes": volumes() } }))]);
    space.ready("reading").await;
    let read = |container: &str, words: &[&str], path: &str| {
        let exec = ["exec", "reading", "--container", container, "--"];
        space.kubectl(&[&exec, words, &[path]].concat()).stdout
    };
    let both =
        |path: &str| (read("wasm", &["/hello.wasm", "read"], path), read("native", &["/bin/busybox", "cat"], path));
    let of_both = |text: &str| (text.to_owned(), text.to_owned());
    assert_eq!(both("/config/text"), of_both("from a config map\n"));
    space.apply(&[with(sources()[0].clone(), json!({ "data": { "text": "changed\n" } }))]);
    space
        .cluster
        .polled("the change", || match both("/config/text") {
            seen if seen == of_both("changed\n") => Ok(()),
            seen => Err(format!("{seen:?}")),
        })
        .await;
    assert_eq!(both("/single/file"), of_both("from a config map\n"));
}

/// Init containers run one after the other, wasm and native ones, and hand files on. If one fails, the pod's containers never start.
async fn init_containers_run_in_order(space: &Space<'_>) {
    let at_work =
        |container: Value| with(container, json!({ "volumeMounts": [{ "name": "work", "mountPath": "/work" }] }));
    let spec = |init: &[Value]| {
        let init: Vec<Value> = init.iter().cloned().map(at_work).collect();
        json!({ "spec": { "initContainers": init, "volumes": [{ "name": "work", "emptyDir": {} }] } })
    };
    let first = wasm("first", &["write", "/work/file", "first"]);
    let second = native("second", "echo second >> /work/file");
    let main = || [at_work(wasm("main", &["read", "/work/file"]))];
    space.apply(&[
        with(pod("ordered", &main()), spec(&[first.clone(), second])),
        with(pod("failing", &main()), spec(&[first, wasm("second", &["exit", "4"])])),
    ]);
    assert_eq!(space.ended("ordered", "main").await.0, 0);
    assert_eq!(space.log("ordered", "main"), Ok("first\nsecond\n".to_owned()));
    assert_eq!(space.ended("failing", "second").await, (4, "Error".to_owned()));
    let failed = space.until("the pod's failure", "pods/failing", |pod| {
        if pod["status"]["phase"] == "Failed" { Ok(pod.clone()) } else { Err(pod["status"].to_string()) }
    });
    let failed = failed.await;
    assert!(container_status(&failed, "main")["state"]["waiting"].is_object(), "{}", failed["status"]);
}

/// Hooks after the start and before the stop run in wasm and native containers, and end before the container does. A hook that fails ends
/// its container.
async fn hooks_run(space: &Space<'_>) {
    let folder = tempfile::tempdir().expect("/tmp is writable");
    let writing = |container: &str, program: &[&str]| {
        let hook = |when: &str| {
            let path = format!("/work/{container}-{when}");
            let words: Vec<String> = program.iter().map(|word| word.replace("PATH", &path)).collect();
            json!({ "exec": { "command": words } })
        };
        json!({ "lifecycle": { "postStart": hook("started"), "preStop": hook("stopped") } })
    };
    let mount = || json!({ "volumeMounts": [{ "name": "work", "mountPath": "/work" }] });
    let volume = json!([{ "name": "work", "hostPath": { "path": folder.path(), "type": "Directory" } }]);
    let failing = json!({ "postStart": { "exec": { "command": ["/hello.wasm", "exit", "3"] } } });
    let containers = [
        with(with(wasm("wasm", &[]), writing("wasm", &["/hello.wasm", "write", "PATH", "hook"])), mount()),
        with(
            with(native("native", "sleep 1000"), writing("native", &["/bin/busybox", "sh", "-c", "echo hook > PATH"])),
            mount(),
        ),
    ];
    space.apply(&[
        with(pod("hooked", &containers), json!({ "spec": { "volumes": volume } })),
        with(
            pod("failing", &[with(wasm("wasm", &[]), json!({ "lifecycle": failing }))]),
            json!({ "spec": { "restartPolicy": "Always" } }),
        ),
    ]);
    let written = |when: &str| {
        ["wasm", "native"].map(|name| fs::read_to_string(folder.path().join(format!("{name}-{when}"))).ok())
    };
    let hook = || Some("hook\n".to_owned());
    space.ready("hooked").await;
    assert_eq!((written("started"), written("stopped")), ([hook(), hook()], [None, None]));
    space.kubectl(&["delete", "pod", "hooked"]);
    assert_eq!(written("stopped"), [hook(), hook()]);
    space
        .until("another start", "pods/failing", |pod| {
            if restarts(pod, "wasm") > 0 { Ok(()) } else { Err(pod["status"].to_string()) }
        })
        .await;
    let events = items(&space.get("events?fieldSelector=involvedObject.name%3Dfailing"));
    assert!(events.iter().any(|event| text(event, "/reason") == "FailedPostStartHook"), "{events:?}");
}
