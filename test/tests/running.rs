//! Containers that run until they are ended, for tests of actions on them.

use prewasi_test::image::{self, Program};
use prewasi_test::{Container, Namespace};

use crate::busybox;

/// Runs a wasm container that ticks for ever.
pub(crate) async fn ticking(namespace: &Namespace, guest: &str) -> Container {
    ticking_as(namespace, guest, &namespace.fresh_id("container")).await
}

/// Runs a wasm container of this id that ticks for ever.
pub(crate) async fn ticking_as(namespace: &Namespace, guest: &str, id: &str) -> Container {
    let program = Program::guest(namespace, guest);
    let image = image::import(namespace, "ticking", |image| image.layer(program.layer("demo.wasm")));
    let mut container = namespace.container(&image.name).id(id).create().await;
    container.start().await;
    container.prints("tick 1\n").await;
    container
}

/// Runs a native container that does nothing.
pub(crate) async fn sleeping(namespace: &Namespace) -> Container {
    let image = busybox::image(namespace);
    let mut container = namespace.container(&image.name).args(&["sleep", "600"]).create().await;
    container.start().await;
    container
}
