//! The files by which an administrator deploys the service are valid and consistent.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use libtest_mimic::Trial;
use prewasi_test::{home, process};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use prewasi_test::trial::local_trials;

pub(crate) fn trials() -> Vec<Trial> {
    local_trials![
        kubernetes_knows_every_field,
        examples_are_what_kubernetes_takes,
        service_account_may_nothing,
        systemd_accepts_the_unit,
        installation_has_what_the_unit_names,
    ]
}

const LIMIT: Duration = Duration::from_secs(60);

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../precompiler/deploy").join(name)
}

fn documents() -> Vec<Value> {
    let text = fs::read_to_string(file("daemonset.yaml")).expect("the file is there");
    let documents = text.split("\n---\n");
    documents.map(|text| serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))).collect()
}

/// Reads a document as Kubernetes does. The reader loses an unknown field, so the comparison finds it.
fn check<T: DeserializeOwned + Serialize>(document: &Value) {
    let known: T = serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{error}: {document}"));
    assert_eq!(serde_json::to_value(known).expect("it can be written"), *document);
}

/// Checks a document, and returns its kind.
fn kind(document: &Value) -> String {
    let kind = document["kind"].as_str().expect("a document has a kind").to_owned();
    match kind.as_str() {
        "Namespace" => check::<Namespace>(document),
        "ServiceAccount" => check::<ServiceAccount>(document),
        "Role" => check::<Role>(document),
        "RoleBinding" => check::<RoleBinding>(document),
        "DaemonSet" => check::<DaemonSet>(document),
        "Deployment" => check::<Deployment>(document),
        "RuntimeClass" => check::<RuntimeClass>(document),
        other => panic!("unexpected kind {other}"),
    }
    kind
}

/// Every document is of a kind that is meant, and every field of it is one that Kubernetes knows, with the right type.
fn kubernetes_knows_every_field() {
    let kinds: Vec<String> = documents().iter().map(kind).collect();
    assert_eq!(kinds, ["Namespace", "ServiceAccount", "Role", "RoleBinding", "DaemonSet"]);
}

/// So are the examples of the README.
fn examples_are_what_kubernetes_takes() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).expect("it is there");
    let blocks = readme.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let kinds: Vec<String> = blocks
        .map(|text| kind(&serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))))
        .collect();
    assert_eq!(kinds, ["RuntimeClass", "Deployment"]);
}

/// The service needs nothing of Kubernetes: its role is empty and no token is mounted. Its container gains no privileges.
fn service_account_may_nothing() {
    let documents = documents();
    assert_eq!(documents[1]["automountServiceAccountToken"], false);
    assert_eq!(documents[2]["rules"], serde_json::json!([]));
    let pod = &documents[4]["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    let context = &pod["containers"][0]["securityContext"];
    assert_eq!(
        (&context["allowPrivilegeEscalation"], &context["readOnlyRootFilesystem"]),
        (&false.into(), &true.into())
    );
    assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
}

/// systemd finds nothing wrong with the unit, on machines that have it.
fn systemd_accepts_the_unit() {
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        eprintln!("not run: systemd accepts the unit: there is no systemd-analyze");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder can be made");
    let unit = fs::read_to_string(file("prewasi-watch.service")).expect("the file is there");
    // The program is not installed here; everything else stays as it is.
    let program = home::program("prewasi");
    let changed = unit.replace("/usr/local/bin/prewasi", &program.to_string_lossy());
    assert_ne!(changed, unit);
    let copy = folder.path().join("prewasi-watch.service");
    fs::write(&copy, changed).expect("the folder is ours");
    let mut command = Command::new("systemd-analyze");
    let output =
        process::run(command.args(["verify", "--man=no", "--recursive-errors=no"]).arg(&copy), LIMIT).success();
    assert_eq!((&*output.stdout, &*output.stderr), ("", ""));
}

/// `make install` puts the program where the unit starts it, and the manual page where `man` finds the name in the unit's documentation.
/// The test omits only the build: programs are there already.
fn installation_has_what_the_unit_names() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let release = folder.path().join("target/release");
    fs::create_dir_all(&release).expect("the folder is ours");
    for name in ["prewasi", "containerd-shim-wasmtime-v1", "oci-tar-builder"] {
        let script = format!("#!/bin/sh\nexec {} \"$@\"\n", home::program(name).display());
        fs::write(release.join(name), script).expect("the folder is ours");
        fs::set_permissions(release.join(name), fs::Permissions::from_mode(0o755)).expect("the file is ours");
    }
    let root = folder.path().join("root");
    let mut make = Command::new("make");
    make.arg("-C").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).args(["install", "CARGO=true"]);
    make.arg(format!("CARGO_TARGET_DIR={}", folder.path().join("target").display()));
    // The flags of the make that runs the tests are not for this one.
    make.arg(format!("DESTDIR={}", root.display())).env_remove("MAKEFLAGS");
    process::run(&mut make, LIMIT).success();

    let unit = fs::read_to_string(file("prewasi-watch.service")).expect("the file is there");
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)).expect("the unit says so");
    let program = value("ExecStart=/").split(' ').next().expect("a word");
    let version = process::run(Command::new(root.join(program)).arg("--version"), LIMIT).success();
    assert!(version.stdout.starts_with("prewasi "), "{version}");
    let (page, section) = value("Documentation=man:").trim_end_matches(')').split_once('(').expect("page(section)");
    let page = root.join(format!("usr/local/share/man/man{section}/{page}.{section}"));
    let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    assert!(text.contains(".SH SYNOPSIS") && text.contains("rank\\-label"), "{text}");
}
