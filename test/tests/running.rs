//! Containers that run until they are ended, for tests of what can be done to them.

use prewasi_test::image::{self, Program};
use prewasi_test::{Container, Namespace};

use crate::busybox;

/// Runs a wasm container that ticks for ever.
pub(crate) async fn ticking(namespace: &Namespace, guest: &str) -> Container {
    let program = Program::guest(namespace, guest);
    let image = image::import(namespace, "ticking", |image| image.layer(program.layer("demo.wasm")));
    let mut container = namespace.container(&image.name).create().await;
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
