//! Images for cold and warm starts.

use std::path::Path;
use std::time::Duration;

use prewasi_test::Namespace;
use prewasi_test::home;
use prewasi_test::image::{self, BIG_MODULE, Imported, Program};
use prewasi_test::process::Output;

/// A wasm image.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    args: &'static [&'static str],
}

impl Subject {
    /// Takes a wasm file, and arguments with which it ends at once.
    pub(crate) fn new(namespace: &Namespace, name: &'static str, path: &Path, args: &'static [&'static str]) -> Self {
        Self { name, program: Program::file(namespace, path), args }
    }

    /// Takes the big module, which prints its version.
    pub(crate) fn big(namespace: &Namespace) -> Self {
        Self::new(namespace, "big", &home::part(BIG_MODULE), &["-V"])
    }

    /// Describes the wasm's size for a table.
    pub(crate) fn size(&self) -> String {
        format!("{} ({} KiB of wasm)", self.name, self.program.bytes.len() >> 10)
    }

    /// Returns the name of its image.
    pub(crate) fn image(&self) -> String {
        format!("localhost/{}:latest", self.name)
    }

    /// Removes the image and its native code, and imports the image again, as for the first time.
    pub(crate) async fn import_anew(&self, namespace: &Namespace) {
        let Imported { name, .. } = self.import(namespace);
        namespace.remove_image(&name).await;
        self.import(namespace);
    }

    fn import(&self, namespace: &Namespace) -> Imported {
        image::import(namespace, self.name, |image| image.layer(self.program.layer("program.wasm")))
    }

    /// Starts a container and waits for its end.
    pub(crate) fn run(&self, namespace: &Namespace) -> Output {
        let args = [&["/program.wasm"], self.args].concat();
        run(namespace, &namespace.runtime(), &self.image(), &args)
    }

    /// Starts a container that must succeed, and returns the time.
    pub(crate) fn time(&self, namespace: &Namespace) -> Duration {
        self.run(namespace).success().elapsed
    }
}

/// Runs a container by `ctr run --rm`, and waits for its end.
pub(crate) fn run(namespace: &Namespace, runtime: &str, image: &str, args: &[&str]) -> Output {
    let id = namespace.fresh_id("bench");
    namespace.ctr(&[&["run", "--rm", "--runtime", runtime, image, &id], args].concat())
}
