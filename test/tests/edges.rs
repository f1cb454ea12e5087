//! The direction of knowledge between the crates, as `docs/architecture.md` draws it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
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

/// The search finds a circle by an import, a path and a re-export. It leaves out modules beside the circle, and a module's use of those
/// above it.
#[test]
fn circles_are_found() {
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    fs::create_dir_all(folder.path().join("src/c")).expect("the folder is new");
    for (file, text) in [
        ("lib.rs", "mod a;\nmod b;\nmod c;\nmod d;\npub struct Root;\n"),
        ("a.rs", "use crate::b::Deep;\nfn f(_: Deep) {}\npub struct A;\n"),
        ("b.rs", "pub(crate) use crate::c::inner::Deep;\n"),
        ("c.rs", "pub(crate) mod inner;\nfn g() { crate::a::f(); }\nstruct C;\n"),
        ("c/inner.rs", "use super::C;\nuse crate::Root;\npub struct Deep(C, Root, crate::a::A);\n"),
        ("d.rs", "use crate::a::A;\nfn h(_: A) {}\n"),
    ] {
        fs::write(folder.path().join("src").join(file), text).expect("the folder is ours");
    }
    let names = ["a", "c/inner"].map(str::to_owned).into();
    assert_eq!(Crate::read(folder.path()).circles(), [names].into());
}
