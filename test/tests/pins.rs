//! A container runs the image that it was created from, even if the name, the record or the content changes.

use containerd_client::services::v1::{GetContainerRequest, UpdateContainerRequest};
use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case};
use prost_types::{Any, FieldMask};

use crate::busybox;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(another_image_of_the_name_changes_nothing),
        case!(removed_image_stays_for_its_container),
        case!(native_container_needs_no_image, needs Busybox),
        case!(missing_content_is_named),
        case!(notes_of_others_are_not_obeyed),
    ]
}

const NOTE: &str = "prewasi.io/image";

fn other(code: u32) -> Program {
    let text = format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const {code}))))"#
    );
    Program::new(wat::parse_str(text).expect("the text is a module"))
}

/// Imports the demo program under a name, or another program under the same.
fn import(namespace: &Namespace, program: &Program) -> image::Imported {
    image::import(namespace, "pinned", |image| image.layer(program.layer("demo.wasm")))
}

/// Ends the task of a container, and starts a new one.
async fn run_again(container: &mut Container) {
    container.kill(rustix::process::Signal::KILL).await.expect("it runs");
    container.wait().await;
    container.delete_task().await.expect("it has ended");
    container.create_again().await.expect("the image is kept");
    container.start().await;
    container.prints("tick 1\n").await;
}

/// After another image has taken the name, exec processes and a new task of the container run the old program. A new container runs the new
/// one.
async fn another_image_of_the_name_changes_nothing(namespace: Namespace) {
    let image = import(&namespace, &Program::guest(&namespace, DEMO));
    let mut container = namespace.container(&image.name).create().await;
    container.start().await;
    container.prints("tick 1\n").await;
    let new = import(&namespace, &other(5));
    assert!(new.name == image.name && new.digest != image.digest);
    assert_eq!(container.exec(&["demo.wasm", "exit", "7"]).run().await.code, 7);
    namespace.collect_garbage().await;
    assert_eq!(container.exec(&["demo.wasm", "exit", "8"]).run().await.code, 8);
    run_again(&mut container).await;
    assert_eq!(container.exec(&["demo.wasm", "exit", "9"]).run().await.code, 9);
    container.end().await;
    assert_eq!(namespace.container(&image.name).run().await.code, 5);
}

/// After the image has been removed and garbage has been collected, the container's program can be executed, and a new task of the
/// container made. With the container the image's content goes.
async fn removed_image_stays_for_its_container(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = import(&namespace, &program);
    let mut container = namespace.container(&image.name).create().await;
    container.start().await;
    container.prints("tick 1\n").await;
    namespace.remove_image(&image.name).await;
    namespace.collect_garbage().await;
    assert_eq!(container.exec(&["demo.wasm", "exit", "7"]).run().await.code, 7);
    run_again(&mut container).await;
    container.end().await;
    namespace.collect_garbage().await;
    assert_eq!(namespace.blob(&program.digest).await, None, "nothing keeps it any more");
}

/// A native container never asks for its image: it is created, started and entered without one, and nothing is noted of it.
async fn native_container_needs_no_image(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let mut container = namespace.container(&image.name).args(&["sleep", "600"]).create().await;
    container.start().await;
    let request = GetContainerRequest { id: container.id().to_owned() };
    let record = namespace.client().containers().get(namespace.request(request)).await.expect("it is there");
    let record = record.into_inner().container.expect("it is there");
    assert!(!record.extensions.contains_key(NOTE) && record.labels.is_empty(), "{record:?}");
    namespace.remove_image(&image.name).await;
    assert_eq!(container.exec(&["/bin/busybox", "true"]).run().await.code, 0);
    container.kill(rustix::process::Signal::KILL).await.expect("it runs");
    container.wait().await;
    container.delete_task().await.expect("it has ended");
    container.create_again().await.expect("nobody asks for the image");
    container.start().await;
    assert_eq!(container.exec(&["/bin/busybox", "true"]).run().await.code, 0);
    container.end().await;
}

/// If a part of the image was removed by force, a process and a new task fail. The error names image, manifest, blob and remedy.
async fn missing_content_is_named(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = import(&namespace, &program);
    let mut container = namespace.container(&image.name).create().await;
    container.start().await;
    container.prints("tick 1\n").await;
    namespace.remove_image(&image.name).await;
    namespace.delete_blob(&image.digest).await;
    let parts = [&*image.name, &image.digest, "has been removed since", "pull", "create the container anew"];
    let mut process = container.exec(&["demo.wasm", "exit", "7"]).create().await;
    let status = process.try_start().await.expect_err("its image is gone");
    for part in parts {
        assert!(status.message().contains(part), "{part}: {status}");
    }
    process.delete().await;
    container.kill(rustix::process::Signal::KILL).await.expect("it runs");
    container.wait().await;
    container.delete_task().await.expect("it has ended");
    let status = container.create_again().await.expect_err("its image is gone");
    for part in parts {
        assert!(status.message().contains(part), "{part}: {status}");
    }
}

/// The shim ignores values under its name in the record that are not its notes, or are about an image of another name. An image's labels,
/// which clients copy to the record, have no effect.
async fn notes_of_others_are_not_obeyed(namespace: Namespace) {
    let victim = image::import(&namespace, "victim", |image| image.layer(other(6).layer("demo.wasm")));
    let image = import(&namespace, &other(5));
    let note = |image: &str, digest: &str| {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        format!(r#"{{"image":"{image}","manifest":"{digest}","mediaType":"{media_type}"}}"#)
    };
    let own_type = "prewasi.io/image.v1";
    for (number, (type_url, value)) in [
        (own_type, note(&victim.name, &victim.digest)),
        ("other", note(&image.name, &victim.digest)),
        (own_type, note(&image.name, "sha256:../../etc")),
        (own_type, "[".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let mut container = namespace.container(&image.name).create().await;
        container.start().await;
        assert_eq!(container.wait().await, 5);
        container.delete_task().await.expect("it has ended");
        let extension = Any { type_url: type_url.to_owned(), value: value.into_bytes() };
        let record = containerd_client::services::v1::Container {
            id: container.id().to_owned(),
            extensions: [(NOTE.to_owned(), extension)].into(),
            labels: [(NOTE.to_owned(), note(&image.name, &victim.digest))].into(),
            ..Default::default()
        };
        let mask = FieldMask { paths: vec![format!("extensions.{NOTE}"), format!("labels.{NOTE}")] };
        let request = UpdateContainerRequest { container: Some(record), update_mask: Some(mask) };
        namespace.client().containers().update(namespace.request(request)).await.expect("it is there");
        container.create_again().await.unwrap_or_else(|status| panic!("note {number}: {status}"));
        container.start().await;
        assert_eq!(container.wait().await, 5, "note {number}");
        container.delete().await;
    }
}
