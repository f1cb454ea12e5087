//! Ends of containers, and the reaction of Kubernetes to each.

use prewasi_test::leaks;
use serde_json::{Value, json};

use crate::space::{Space, container_status, native, pod, restarts, text, wasm, with};
use crate::trials::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(lack_of_memory_is_the_reason),
        case!(pod_that_fills_its_volume_is_evicted),
        case!(crash_loop_keeps_the_exit_code),
        case!(jobs_count_their_ends),
        case!(cron_job_starts_jobs),
    ]
}

/// A container above its memory limit is killed, and its reason is `OOMKilled`, for wasm as for a native program. Its neighbour goes on.
async fn lack_of_memory_is_the_reason(space: &Space<'_>) {
    let limited = |container: Value| with(container, json!({ "resources": { "limits": { "memory": "48Mi" } } }));
    space.apply(&[pod(
        "hungry",
        &[
            limited(wasm("wasm", &["allocate", "200"])),
            limited(native("native", "x=x; while :; do x=$x$x; done")),
            limited(wasm("modest", &[])),
        ],
    )]);
    for name in ["wasm", "native"] {
        assert_eq!(space.ended("hungry", name).await, (137, "OOMKilled".to_owned()), "{name}");
    }
    let modest = space.get("pods/hungry");
    assert!(container_status(&modest, "modest")["state"]["running"].is_object(), "{}", modest["status"]);
}

/// A pod with more in a volume than it may have is evicted: its containers end, and leave no process.
async fn pod_that_fills_its_volume_is_evicted(space: &Space<'_>) {
    let fill = "dd if=/dev/zero of=/work/file bs=1M count=4; sleep 1000";
    let volume = json!([{ "name": "work", "emptyDir": { "sizeLimit": "1Mi" } }]);
    let mount = json!({ "volumeMounts": [{ "name": "work", "mountPath": "/work" }] });
    let filling = pod("filling", &[wasm("wasm", &[]), with(native("native", fill), mount)]);
    space.apply(&[with(filling, json!({ "spec": { "volumes": volume } }))]);
    let before = space.ready("filling").await;
    space
        .until("the eviction", "pods/filling", |pod| {
            let status = &pod["status"];
            if status["phase"] == "Failed" && status["reason"] == "Evicted" { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    let daemon = space.cluster.daemon();
    space
        .cluster
        .polled("the end of its processes", || {
            let id = |name| text(container_status(&before, name), "/containerID").trim_start_matches("containerd://");
            let left = ["wasm", "native"].map(|name| leaks::processes_of_container(daemon, id(name))).concat();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
}

/// Containers that end by themselves are started again, after pauses, and their exit codes are kept: those of a wasm program, of a native
/// one, and of a trap, whose reason is in the log of the previous attempt.
async fn crash_loop_keeps_the_exit_code(space: &Space<'_>) {
    let crashing =
        pod("crashing", &[wasm("wasm", &["exit", "7"]), native("native", "exit 7"), wasm("trap", &["trap"])]);
    space.apply(&[with(crashing, json!({ "spec": { "restartPolicy": "Always" } }))]);
    for (name, code) in [("wasm", 7), ("native", 7), ("trap", 134)] {
        space
            .until(&format!("{name} in a loop"), "pods/crashing", |pod| {
                let status = container_status(pod, name);
                let is_waiting = status["state"]["waiting"]["reason"] == "CrashLoopBackOff" && restarts(pod, name) >= 2;
                if is_waiting && status["lastState"]["terminated"]["exitCode"] == code {
                    Ok(())
                } else {
                    Err(status.to_string())
                }
            })
            .await;
    }
    let log = space.kubectl(&["logs", "crashing", "--container=trap", "--previous"]).stdout;
    assert!(log.contains("trapped"), "{log}");
}

fn job(name: &str, spec: Value, container: Value) -> Value {
    let template = pod(name, &[container]);
    let template = json!({ "spec": { "template": { "spec": template["spec"] } } });
    let job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name }, "spec": spec });
    with(job, template)
}

/// Waits for a condition of a job, and returns the job's status.
async fn condition(space: &Space<'_>, name: &str, kind: &str) -> Value {
    space
        .until(&format!("{name} to be {kind}"), &format!("jobs/{name}"), |job| {
            let conditions = job["status"]["conditions"].as_array();
            let found = conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True");
            if found { Ok(job["status"].clone()) } else { Err(job["status"].to_string()) }
        })
        .await
}

/// Jobs complete, fail after their attempts, and end at their deadline, by the exit codes of wasm programs.
async fn jobs_count_their_ends(space: &Space<'_>) {
    space.apply(&[
        job("done", json!({ "completions": 3, "parallelism": 2 }), wasm("wasm", &["echo", "done"])),
        job("failing", json!({ "backoffLimit": 1 }), wasm("wasm", &["exit", "3"])),
        job("late", json!({ "activeDeadlineSeconds": 5 }), wasm("wasm", &[])),
    ]);
    assert_eq!(condition(space, "done", "Complete").await["succeeded"], 3);
    let failed = condition(space, "failing", "Failed").await;
    assert_eq!((&failed["failed"], &failed["conditions"][0]["reason"]), (&2.into(), &"BackoffLimitExceeded".into()));
    assert_eq!(condition(space, "late", "Failed").await["conditions"][0]["reason"], "DeadlineExceeded");
}

/// A cron job starts a job each minute, which completes.
async fn cron_job_starts_jobs(space: &Space<'_>) {
    let spec = job("wasm", json!({}), wasm("wasm", &["echo", "on time"]))["spec"].clone();
    space.apply(&[json!({
        "apiVersion": "batch/v1beta1", "kind": "CronJob", "metadata": { "name": "minutely" },
        "spec": { "schedule": "* * * * *", "jobTemplate": { "spec": spec } },
    })]);
    let name = space.until("a job", "jobs", |jobs| {
        let done = jobs["items"].as_array().into_iter().flatten().find(|job| job["status"]["succeeded"] == 1);
        let done = done.ok_or_else(|| jobs.to_string())?;
        Ok(text(done, "/metadata/name").to_owned())
    });
    let name = name.await;
    assert!(name.starts_with("minutely-"), "{name}");
    assert_eq!(space.kubectl(&["logs", &format!("job/{name}")]).stdout, "on time\n");
}
