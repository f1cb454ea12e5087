//! The direction of knowledge between the crates, as `docs/architecture.md` draws it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_metadata::{Metadata, MetadataCommand, Package};

#[path = "edges/circles.rs"]
mod circles;

use circles::Crate;

/// Each crate with the crates of this workspace that it may know: no fewer, no more.
const EDGES: [(&str, &[&str]); 7] = [
    ("oci-tar-builder", &["prewasi-oci"]),
    ("prewasi-cache", &["prewasi-oci"]),
    ("prewasi-engines", &["prewasi-names", "prewasi-oci"]),
    ("prewasi-names", &[]),
    ("prewasi-oci", &[]),
    ("prewasi-precompiler", &["prewasi-cache", "prewasi-engines", "prewasi-oci"]),
    ("prewasi-shim", &["prewasi-engines", "prewasi-names", "prewasi-precompiler"]),
];

/// Crates from elsewhere that would carry knowledge into the wrong crate, by the beginning of their name.
const FOREIGN: [(&str, &[&str]); 6] = [
    ("oci-tar-builder", &["containerd", "tonic", "wasmtime", "wasmer"]),
    ("prewasi-cache", &["wasm", "wat", "wit"]),
    ("prewasi-engines", &["containerd", "oci-spec", "tonic", "ttrpc"]),
    ("prewasi-names", &["containerd", "libc", "nix", "wasm"]),
    ("prewasi-oci", &["containerd", "rustix", "tokio", "wasm"]),
    ("prewasi-shim", &["wasmtime", "wasmer", "wasmedge"]),
];

fn workspace() -> Metadata {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let mut command = MetadataCommand::new();
    command.manifest_path(manifest).no_deps().other_options(["--offline".to_owned()]);
    command.exec().expect("cargo reads its own workspace")
}

fn dependencies(package: &Package) -> impl Iterator<Item = &str> {
    package.dependencies.iter().map(|dependency| dependency.name.as_str())
}

/// Between the crates there are the edges of the design and no others; nobody depends on the tests.
#[test]
fn edges_are_those_of_the_design() {
    let metadata = workspace();
    let names: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let found: BTreeMap<&str, BTreeSet<&str>> = metadata
        .packages
        .iter()
        .filter(|package| package.name.as_str() != "prewasi-test")
        .map(|package| (package.name.as_str(), dependencies(package).filter(|name| names.contains(name)).collect()))
        .collect();
    let designed = EDGES.iter().map(|(name, edges)| (*name, edges.iter().copied().collect())).collect();
    assert_eq!(found, designed);
}

/// The store knows nothing of wasm, the engines nothing of containerd, the shim nothing of any one engine.
#[test]
fn no_crate_knows_what_is_not_its_own() {
    let metadata = workspace();
    for (name, prefixes) in FOREIGN {
        let package = metadata.packages.iter().find(|package| package.name.as_str() == name).expect("it is a member");
        let foreign: Vec<&str> =
            dependencies(package).filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix))).collect();
        assert!(foreign.is_empty(), "{name} depends on {foreign:?}");
    }
}

/// Between the modules of a crate knowledge goes one way.
#[test]
fn modules_make_no_circles() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = String::new();
    for name in ["cache", "engines", "names", "oci", "oci-tar-builder", "precompiler", "shim"] {
        let read = Crate::read(&root.join(name));
        for circle in read.circles() {
            found += &format!("{name}:\n{}", read.describe(&circle));
        }
    }
    assert!(found.is_empty(), "there are circles:\n{found}");
}
