//! One specification, three containers: a native program under runc, the same under our shim, and a wasm program under our shim. All that
//! the node sees of them must be the same. A difference by design has its reason in `docs/parity.md`, and a row in [`differences`], and
//! must still exist.
//!
//! runc runs every row twice: a difference between two runs of runc is no property of a specification.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use containerd_client::types::v1::Status as TaskStatus;
use oci_tar_builder::Layer;
use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Imported, Program, files, links};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, Series, case, eventually};
use serde_json::{Value, json};

use crate::busybox;
use crate::confinement::{OURS, RUNC};

mod clients;
mod differences;
mod rows;
mod seen;

use rows::{Neighbour, Row};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case!(users, needs Runc Busybox),
        case!(capabilities, needs Runc Busybox),
        case!(namespaces, needs Runc Busybox),
        case!(cgroups, needs Runc Busybox),
        case!(mounts, needs Runc Busybox),
        case!(propagation, needs Runc Busybox),
        case!(folders, needs Runc Busybox),
        case!(paths, needs Runc Busybox),
        case!(hooks, needs Runc Busybox),
        case!(processes, needs Runc Busybox),
        case!(devices, needs Runc Busybox),
        case!(containers_of_docker, needs Runc Busybox),
    ];
    cases.extend(clients::cases());
    cases
}

async fn users(namespace: Namespace) {
    compare(&namespace, rows::users()).await;
}

async fn capabilities(namespace: Namespace) {
    compare(&namespace, rows::capabilities()).await;
}

async fn namespaces(namespace: Namespace) {
    compare(&namespace, rows::namespaces()).await;
}

async fn cgroups(namespace: Namespace) {
    compare(&namespace, rows::cgroups()).await;
    // Folders above a container's cgroup stay, with runc as well.
    for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("cgroups are mounted").flatten() {
        let folder = hierarchy.path().join(namespace.name());
        for path in ["deep/er", "deep"] {
            let _ = fs::remove_dir(folder.join(path));
        }
    }
}

async fn mounts(namespace: Namespace) {
    compare(&namespace, rows::mounts()).await;
}

async fn propagation(namespace: Namespace) {
    compare(&namespace, rows::propagation()).await;
}

async fn folders(namespace: Namespace) {
    compare(&namespace, rows::folders()).await;
}

async fn paths(namespace: Namespace) {
    compare(&namespace, rows::paths()).await;
}

async fn hooks(namespace: Namespace) {
    compare(&namespace, rows::hooks()).await;
}

async fn processes(namespace: Namespace) {
    compare(&namespace, rows::processes()).await;
}

async fn devices(namespace: Namespace) {
    compare(&namespace, rows::devices()).await;
}

/// Containers as dockerd describes them are as with runc.
async fn containers_of_docker(namespace: Namespace) {
    compare(&namespace, clients::docker()).await;
}

/// How long a program may take to begin.
const LIMIT: Duration = Duration::from_secs(30);

/// How a row is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Reference,
    Native,
    Wasm,
}

/// Says whether a container is created and started.
const RUNS: &str = "runs";
/// Why it is not.
const WHY: &str = "why";

/// The view of a container: names and values.
type Seen = BTreeMap<String, String>;

/// Makes an image with the program of each kind, and files of both kinds of owner.
fn mixed(namespace: &Namespace) -> Imported {
    let layer = layer(namespace);
    let links = links(&[("/links/file", "/open"), ("/links/folder", "../work"), ("/links/dangling", "/none")]);
    image::import(namespace, "parity", |image| image.os("linux").entrypoint(["/none"]).layer(layer).layer(links))
}

fn layer(namespace: &Namespace) -> Layer {
    let program = Program::guest(namespace, DEMO);
    files(&[
        ("/bin/busybox", &busybox::bytes(), 0o755),
        ("/demo.wasm", &program.bytes, 0o644),
        ("/secret", b"secret\n", 0o600),
        ("/open", b"open\n", 0o666),
        ("/work/file", b"file\n", 0o644),
    ])
}

/// Runs a row and returns the view of its container.
async fn look(namespace: &Namespace, image: &Imported, neighbour: &Neighbour, subject: Subject, row: &Row) -> Seen {
    let place = neighbour.place();
    let args = match subject {
        Subject::Wasm => json!(["/demo.wasm", "sleep", "600"]),
        _ => json!(["/bin/busybox", "sh", "-c", "echo sleeping; exec busybox sleep 600"]),
    };
    let runtime = if subject == Subject::Reference { RUNC } else { OURS };
    let mut builder = namespace.container(&image.name).id(&place.id).runtime(runtime);
    builder = builder.change(json!({ "process": { "env": ["PATH=/bin", "HOME=/"] } }));
    for change in &row.changes {
        builder = builder.change(place.fill(change));
    }
    let created = builder.change(json!({ "process": { "args": args } })).try_create().await;
    let mut seen = Seen::new();
    match created {
        Ok(mut container) => match begun(&mut container).await {
            Ok(()) => {
                seen.insert(RUNS.to_owned(), "yes".to_owned());
                seen.extend(seen::all(container.pid(), &place));
                if row.acts {
                    seen.extend(effects(&container, subject).await);
                }
                for path in row.paths {
                    seen.insert(format!("path {path}"), seen::path(container.pid(), path));
                }
                container.kill_with(9, true).await.expect("it runs");
                seen.insert("exit code".to_owned(), container.wait().await.to_string());
                container.delete().await;
            }
            Err(why) => {
                refused(&mut seen, why);
                container.try_delete().await;
            }
        },
        Err(status) => refused(&mut seen, status.to_string()),
    }
    seen
}

/// Notes that a container does not run. The reason is of interest only where it should run.
fn refused(seen: &mut Seen, why: String) {
    seen.insert(RUNS.to_owned(), "no".to_owned());
    seen.insert(WHY.to_owned(), why);
}

/// Starts a container, and waits until its program has begun.
async fn begun(container: &mut Container) -> Result<(), String> {
    container.try_start().await.map_err(|status| status.to_string())?;
    eventually("the program, or its end", LIMIT, async || {
        let state = container.state().await.map_err(|status| status.to_string())?;
        match (container.stdout().contains("sleeping"), state.status()) {
            (true, _) => Ok(Ok(())),
            (_, TaskStatus::Stopped) => Ok(Err(container.stderr())),
            (_, status) => Err(format!("{status:?}")),
        }
    })
    .await
}

/// Returns the effects of later processes of the container on its files. The node looks at the files.
async fn effects(container: &Container, subject: Subject) -> Seen {
    let mut seen = Seen::new();
    for path in ["/secret", "/open", "/proc/version"] {
        let args = match subject {
            Subject::Wasm => ["/demo.wasm", "read", path],
            _ => ["/bin/busybox", "cat", path],
        };
        let read = container.exec(&args).run().await;
        seen.insert(format!("reads {path}"), (read.code == 0).to_string());
    }
    for path in ["/made", "/tmp/made", "/open", "/dev/made"] {
        let script = format!("echo text > {path}");
        let args = match subject {
            Subject::Wasm => vec!["/demo.wasm", "write", path, "text"],
            _ => vec!["/bin/busybox", "sh", "-c", &script],
        };
        let written = container.exec(&args).run().await;
        seen.insert(format!("writes {path}"), format!("{} {}", written.code == 0, seen::path(container.pid(), path)));
    }
    if subject != Subject::Wasm {
        let script = "busybox touch /own; busybox chmod 600 /own; echo $?; busybox mknod /node c 1 3; echo $?; \
                      busybox chown 5 /own; echo $?; busybox timeout 1 busybox nc -l -p 80; echo $?; busybox kill -0 1; echo $?; busybox mount -t tmpfs x /work; echo $?";
        seen.insert("does".to_owned(), container.exec(&["/bin/busybox", "sh", "-c", script]).run().await.stdout);
    }
    seen
}

/// Asserts that each row gives the same with runc, natively and with wasm, except for differences by design.
async fn compare(namespace: &Namespace, rows: Vec<Row>) {
    let image = mixed(namespace);
    let neighbour = Neighbour::new(namespace, &image).await;
    let mut found = Vec::new();
    for row in rows {
        let expected = look(namespace, &image, &neighbour, Subject::Reference, &row).await;
        assert_eq!(expected[RUNS] == "no", row.refused, "{}: {:?}", row.name, expected.get(WHY));
        // Once is enough for runc.
        if namespace.daemon().series() == Series::V2_1 {
            let again = look(namespace, &image, &neighbour, Subject::Reference, &row).await;
            found.extend(differences::between(&row.name, &expected, &again));
        }
        for subject in [Subject::Native, Subject::Wasm] {
            let seen = look(namespace, &image, &neighbour, subject, &row).await;
            found.extend(differences::check(&row.name, subject, &expected, &seen));
        }
    }
    neighbour.end().await;
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

/// Merges nothing: a row without a change.
fn plain() -> Value {
    json!({})
}
