//! Damaged artifacts and labels: a miss each, after which everything is as it should be.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use prewasi_test::image::{self, Imported, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};

use crate::labels::{Key, artifact};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(changed_byte_is_a_miss),
        case!(truncated_artifact_is_a_miss),
        case!(dangling_label_is_a_miss),
        case!(malformed_label_is_a_miss),
        case!(foreign_artifact_is_a_miss),
    ]
}

/// Imports a program that prints a word, and compiles it. Its memory has the namespace's name in it. A program that differed in a name only
/// may have the same native code, which tests in other namespaces would damage at the same time.
fn precompiled(namespace: &Namespace) -> (Program, Imported) {
    let source = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\08\00\00\00\06\00\00\00sound\0a")
        (data (i32.const 64) "MARK")
        (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))))"#;
    let wasm = wat::parse_str(source.replace("MARK", namespace.name())).expect("it is wasm text");
    let program = Program::new(wasm);
    let image = image::import(namespace, "damaged", |image| image.layer(program.layer("sound.wasm")));
    namespace.prewasi("precompile", &[&image.name]).success();
    (program, image)
}

/// Asserts that a run compiles once more, that a later one does not, and that the label names a sound artifact again.
async fn assert_recompiled(namespace: &Namespace, program: &Program, image: &Imported) {
    for _ in 0..2 {
        let exited = namespace.container(&image.name).run().await;
        assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (0, "sound\n", ""));
        assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 2);
    }
    let artifact = artifact(namespace, &program.digest).await;
    let bytes = fs::read(namespace.daemon().blob_path(&artifact)).expect("the artifact is there");
    assert_eq!(image::digest(&bytes), artifact);
    let labels = namespace.labels(&program.digest).await;
    assert_eq!(labels.get(&Key::of(namespace, &program.digest).gc_label()), Some(&artifact));
    namespace.collect_garbage().await;
    assert!(namespace.blob(&artifact).await.is_some());
}

/// Opens a blob's file for writing, which its mode forbids.
fn open(path: &Path) -> File {
    fs::set_permissions(path, Permissions::from_mode(0o644)).expect("the blob is there");
    File::options().read(true).write(true).open(path).expect("the blob is there")
}

/// An artifact in which a byte was changed is not loaded: it is compiled anew, and the container runs.
async fn changed_byte_is_a_miss(namespace: Namespace) {
    let (program, image) = precompiled(&namespace);
    let file = open(&namespace.daemon().blob_path(&artifact(&namespace, &program.digest).await));
    let middle = file.metadata().expect("it is open").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).expect("it is open");
    file.write_all_at(&[!byte[0]], middle).expect("it is open");
    assert_recompiled(&namespace, &program, &image).await;
}

/// An artifact that has lost its end is not loaded: it is compiled anew, and the container runs.
async fn truncated_artifact_is_a_miss(namespace: Namespace) {
    let (program, image) = precompiled(&namespace);
    let file = open(&namespace.daemon().blob_path(&artifact(&namespace, &program.digest).await));
    file.set_len(file.metadata().expect("it is open").len() / 2).expect("it is open");
    assert_recompiled(&namespace, &program, &image).await;
}

/// A label that names a blob which is gone is a miss: the module is compiled anew and the label repaired.
async fn dangling_label_is_a_miss(namespace: Namespace) {
    let (program, image) = precompiled(&namespace);
    namespace.delete_blob(&artifact(&namespace, &program.digest).await).await;
    assert_recompiled(&namespace, &program, &image).await;
}

/// A label that is no digest is a miss: the module is compiled anew and the label repaired.
async fn malformed_label_is_a_miss(namespace: Namespace) {
    let (program, image) = precompiled(&namespace);
    let label = Key::of(&namespace, &program.digest).label();
    namespace.set_label(&program.digest, &label, "../../etc/passwd").await;
    assert_recompiled(&namespace, &program, &image).await;
}

/// An artifact whose own labels name another source is not ours, and is not loaded.
async fn foreign_artifact_is_a_miss(namespace: Namespace) {
    let (program, image) = precompiled(&namespace);
    let artifact = artifact(&namespace, &program.digest).await;
    namespace.set_label(&artifact, "runwasi.io/precompiled", &format!("sha256:{:064x}", 7)).await;
    assert_recompiled(&namespace, &program, &image).await;
}
