//! Requests of the kubelet for features of Kubernetes. runc gets each request with a native program; our shim gets it with a native program
//! and with wasm. runc's values are the expected ones.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_cri::v1::{ContainerConfig, ContainerState};
use oci_tar_builder::Format;
use prewasi_test::Namespace;
use prewasi_test::cri::{Cri, LIKE_RUNC, Pod, container};
use prewasi_test::guests::{self, DEMO};
use prewasi_test::image::{files, links};
use prewasi_test::trial::Case;

use super::{exec, start};
use crate::busybox;

mod processes;
mod resources;
mod storage;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = resources::cases();
    cases.extend(processes::cases());
    cases.extend(storage::cases());
    cases
}

/// The program of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Native,
    Wasm,
}

/// The runtime handlers and programs that are compared; the first is the reference.
const SUBJECTS: [(&str, Program); 3] =
    [("runc", Program::Native), ("wasmtime", Program::Native), ("wasmtime", Program::Wasm)];
/// The same with a handler of ours that containerd asks for its features.
const LIKE_RUNC_SUBJECTS: [(&str, Program); 3] =
    [("runc", Program::Native), (LIKE_RUNC, Program::Native), (LIKE_RUNC, Program::Wasm)];

/// Folder of the service account, as the kubelet mounts it.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

impl Program {
    fn path(self) -> &'static str {
        match self {
            Self::Native => "/bin/busybox",
            Self::Wasm => "/app/demo.wasm",
        }
    }

    /// Describes a container that runs the program with these arguments.
    fn container(self, name: &str, image: &str, args: &[&str]) -> ContainerConfig {
        ContainerConfig { command: vec![self.path().to_owned()], ..container(name, image, args) }
    }

    /// Describes a container that prints ticks, and that SIGTERM ends with 143.
    fn ticking(self, name: &str, image: &str) -> ContainerConfig {
        let script = "trap 'exit 143' TERM; i=0; while :; do i=$((i+1)); echo tick $i; busybox sleep 0.2; done";
        match self {
            Self::Native => self.container(name, image, &["sh", "-c", script]),
            Self::Wasm => self.container(name, image, &[]),
        }
    }

    /// Returns the arguments that print a file.
    fn reading(self, path: &str) -> [&str; 2] {
        [if self == Self::Native { "cat" } else { "read" }, path]
    }

    /// Runs the program once more in a container; returns its exit code and output.
    async fn exec(self, cri: &Cri, id: &str, args: &[&str]) -> (i32, String) {
        let words: Vec<&str> = [self.path()].into_iter().chain(args.iter().copied()).collect();
        exec(cri, id, &words).await.expect("it runs")
    }
}

/// The observations of a subject, by name.
type Facts = BTreeMap<String, String>;

/// Asserts that all subjects have the facts of the first.
fn assert_alike(all: &[(String, Facts)]) {
    let ((reference, expected), others) = all.split_first().expect("there is a reference");
    let mut found = String::new();
    for (subject, facts) in others {
        let names = expected.keys().chain(facts.keys().filter(|name| !expected.contains_key(*name)));
        for name in names.filter(|name| expected.get(*name) != facts.get(*name)) {
            let (expected, seen) = (expected.get(name), facts.get(name));
            writeln!(found, "{name}: {reference} {expected:?}, {subject} {seen:?}").expect("a text can be extended");
        }
    }
    assert!(found.is_empty(), "{found}");
}

/// Starts containerd, and pulls an image with the native program and the wasm, whose `/var/run` is a link.
async fn node(namespace: &Namespace) -> (Cri, String) {
    let cri = start(namespace, "").await;
    let image = both(&cri, "both:v1", "/run").await;
    (cri, image)
}

/// Pulls an image with both programs, and with a link from `/var/run` to this target.
async fn both(cri: &Cri, name: &str, target: &str) -> String {
    let wasm = std::fs::read(guests::path(DEMO)).expect("the guest is there");
    let layer = files(&[
        ("/bin/busybox", &busybox::bytes(), 0o755),
        ("/app/demo.wasm", &wasm, 0o644),
        ("/app/native", b"#!/bin/busybox sh\nexit 3\n", 0o755),
        ("/app/wasm", &crate::volumes::exits(3), 0o644),
        ("/run/.keep", b"", 0o644),
        ("/mark", b"of the image\n", 0o644),
    ]);
    let image = cri.push(name, Format::Image, |image| {
        image.os("linux").entrypoint(["/app/demo.wasm"]).layer(layer).layer(links(&[("/var/run", target)]))
    });
    cri.pull(&image).await;
    image
}

/// Runs a pod for a subject, under a name of its own.
async fn pod(cri: &Cri, (handler, program): (&str, Program), name: &str) -> Pod {
    cri.run_pod_with(cri.pod_config(&pod_name((handler, program), name)), handler).await
}

fn pod_name((handler, program): (&str, Program), name: &str) -> String {
    format!("{name}-{handler}-{program:?}").to_lowercase()
}

/// Says whether a container runs.
async fn runs(cri: &Cri, id: &str) -> bool {
    cri.status(id).await.state() == ContainerState::ContainerRunning
}

/// Waits until a container has ended; returns exit code and reason.
async fn end(cri: &Cri, id: &str) -> String {
    let status = cri.exited(id).await;
    format!("{} {}", status.exit_code, status.reason)
}

/// Returns point and options of the last mount at a point, as a process sees it.
fn mount_at(pid: u32, point: &str) -> Option<[String; 2]> {
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("it runs");
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mut found =
        fields.filter(|fields| fields[4] == point).map(|fields| [fields[4].to_owned(), fields[5].to_owned()]);
    found.next_back()
}
