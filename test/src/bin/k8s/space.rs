//! A namespace of the cluster for one case, what a user does in it, and descriptions of pods.

use std::fmt::Write as _;

use prewasi_test::http;
use prewasi_test::process::Output;
use serde_json::{Value, json};

use crate::cluster::{API, Cluster};
use crate::images::{HELLO, PROXY};

/// A namespace; [`Space::clear`] deletes it.
pub(crate) struct Space<'a> {
    /// Its cluster.
    pub(crate) cluster: &'a Cluster,
    name: String,
}

impl<'a> Space<'a> {
    /// Makes a namespace, and waits until pods can be created in it.
    pub(crate) async fn create(cluster: &'a Cluster, name: &str) -> Self {
        let this = Self { cluster, name: name.to_owned() };
        cluster.kubectl(&["create", "namespace", name]).success();
        this.until("a token for pods", "serviceaccounts/default", |account| {
            if account["secrets"].is_array() { Ok(()) } else { Err(account.to_string()) }
        })
        .await;
        this
    }

    /// Returns its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the API server's path of an object, such as `pods/NAME` or `deployments/NAME`.
    fn path(&self, object: &str) -> String {
        let group = match object.split('/').next() {
            Some("deployments" | "daemonsets" | "replicasets") => "apis/apps/v1",
            Some("jobs") => "apis/batch/v1",
            Some("cronjobs") => "apis/batch/v1beta1",
            _ => "api/v1",
        };
        format!("/{group}/namespaces/{}/{object}", self.name)
    }

    /// Runs `kubectl`, which must succeed.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Output {
        self.try_kubectl(args).success()
    }

    /// Runs `kubectl`.
    pub(crate) fn try_kubectl(&self, args: &[&str]) -> Output {
        self.cluster.kubectl(&[&["--namespace", &self.name], args].concat())
    }

    /// Applies objects.
    pub(crate) fn apply(&self, objects: &[Value]) {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        self.cluster.apply(&["--namespace", &self.name], &list.to_string());
    }

    /// Reads an object.
    pub(crate) fn get(&self, object: &str) -> Value {
        self.cluster.get(&self.path(object)).unwrap_or_else(|reason| panic!("cannot read {object}: {reason}"))
    }

    /// Reads an object until `probe` finds a value in it.
    pub(crate) async fn until<T>(&self, what: &str, object: &str, probe: impl FnMut(&Value) -> Result<T, String>) -> T {
        self.cluster.until(what, &self.path(object), probe).await
    }

    /// Waits until all containers of a pod are ready, and returns the pod.
    pub(crate) async fn ready(&self, pod: &str) -> Value {
        self.until(&format!("{pod} to be ready"), &format!("pods/{pod}"), |pod| {
            if is_ready(pod) { Ok(pod.clone()) } else { Err(pod["status"].to_string()) }
        })
        .await
    }

    /// Waits until a deployment has `replicas` ready pods and no others, and returns them.
    pub(crate) async fn deployed(&self, name: &str, replicas: usize) -> Vec<Value> {
        let pods = format!("pods?labelSelector=app%3D{name}");
        self.until(&format!("{replicas} pods of {name}"), &pods, |list| {
            let pods = items(list);
            if pods.len() == replicas && pods.iter().all(is_ready) {
                return Ok(pods);
            }
            Err(pods.iter().map(|pod| format!("{}: {}\n", pod["metadata"]["name"], pod["status"])).collect())
        })
        .await
    }

    /// Waits until a container has ended, and returns exit code and reason of its last end.
    pub(crate) async fn ended(&self, pod: &str, container: &str) -> (i64, String) {
        self.until(&format!("the end of {container} in {pod}"), &format!("pods/{pod}"), |pod| {
            let status = container_status(pod, container);
            let ends = [&status["state"]["terminated"], &status["lastState"]["terminated"]];
            let end = ends.into_iter().find(|end| end.is_object()).ok_or_else(|| pod["status"].to_string())?;
            Ok((end["exitCode"].as_i64().unwrap_or(-1), end["reason"].as_str().unwrap_or_default().to_owned()))
        })
        .await
    }

    /// Returns the log of a container.
    pub(crate) fn log(&self, pod: &str, container: &str) -> Result<String, String> {
        match http::get(API, &self.path(&format!("pods/{pod}/log?container={container}")))? {
            (200, text) => Ok(text),
            other => Err(format!("{other:?}")),
        }
    }

    /// Waits until a container's log has a line.
    pub(crate) async fn logs(&self, pod: &str, container: &str, line: &str) {
        self.cluster
            .polled(&format!("{line:?} in the log of {pod}, {container}"), || {
                let text = self.log(pod, container)?;
                if text.lines().any(|found| found == line) { Ok(()) } else { Err(text) }
            })
            .await;
    }

    /// Describes the state of all pods, for the message of a failure.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for args in [&["get", "pods", "--output=wide"][..], &["get", "events", "--sort-by=.lastTimestamp"]] {
            let _ = writeln!(text, "{}", self.try_kubectl(args));
        }
        let _ = writeln!(text, "--- end of the kubelet's log\n{}", self.cluster.log("kubelet", 20));
        text
    }

    /// Deletes the namespace with all its objects, and waits until it is gone.
    pub(crate) async fn clear(&self) {
        // Owners first, so that nothing is made anew; most native programs here do not listen to a polite stop.
        for what in [&["deployments,daemonsets,cronjobs,jobs"][..], &["pods", "--grace-period=1"]] {
            self.try_kubectl(&[&["delete", "--all", "--wait=false"], what].concat());
        }
        self.cluster.kubectl(&["delete", "namespace", &self.name, "--timeout=200s"]).success();
    }
}

/// Returns the items of a list.
pub(crate) fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().cloned().unwrap_or_default()
}

/// Returns a text in an object.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {object}"))
}

/// Says whether all containers of a pod are ready, and it is not about to end.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
    ready && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Returns the status of a container or init container.
pub(crate) fn container_status<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses"].map(|list| pod["status"][list].as_array());
    let mut statuses = lists.into_iter().flatten().flatten();
    statuses.find(|status| status["name"] == name).unwrap_or(&Value::Null)
}

/// Returns how often a container was started again.
pub(crate) fn restarts(pod: &Value, name: &str) -> u64 {
    container_status(pod, name)["restartCount"].as_u64().unwrap_or_default()
}

/// Describes a pod of the runtime class, whose containers are not started again.
pub(crate) fn pod(name: &str, containers: &[Value]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "runtimeClassName": "wasmtime",
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 2,
            "automountServiceAccountToken": false,
            "containers": containers,
        },
    })
}

/// Describes a deployment of such pods.
pub(crate) fn deployment(name: &str, replicas: usize, containers: &[Value]) -> Value {
    let mut template = pod(name, containers);
    template["spec"]["restartPolicy"] = "Always".into();
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": template["metadata"], "spec": template["spec"] },
        },
    })
}

/// Describes a container with the demo program.
pub(crate) fn wasm(name: &str, args: &[&str]) -> Value {
    json!({ "name": name, "image": HELLO, "args": args })
}

/// Describes a container with a native shell.
pub(crate) fn native(name: &str, script: &str) -> Value {
    json!({ "name": name, "image": PROXY, "command": ["/bin/busybox", "sh", "-c", script] })
}

/// Returns an object with the fields of another added, on all levels.
pub(crate) fn with(mut object: Value, more: Value) -> Value {
    merge(&mut object, more);
    object
}

fn merge(object: &mut Value, more: Value) {
    match (object, more) {
        (Value::Object(object), Value::Object(more)) => {
            more.into_iter().for_each(|(key, value)| merge(object.entry(key).or_insert(Value::Null), value));
        }
        (object, more) => *object = more,
    }
}
