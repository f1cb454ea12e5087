//! Images with native programs: this machine's busybox, alone or beside wasm.

use std::fs;
use std::time::Duration;

use prewasi_test::image::{self, Imported, Program, files};
use prewasi_test::{Namespace, eventually};

/// Returns the program.
pub(crate) fn bytes() -> Vec<u8> {
    let path = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| fs::exists(path).unwrap_or(false));
    fs::read(path.expect("busybox has been looked for")).expect("busybox can be read")
}

/// Imports an image whose entrypoint is busybox.
pub(crate) fn image(namespace: &Namespace) -> Imported {
    image::import(namespace, "busybox", |image| {
        image.os("linux").entrypoint(["/bin/busybox"]).layer(files(&[("/bin/busybox", &bytes(), 0o755)]))
    })
}

/// Imports the same with folders for all that is mounted: in a user namespace nobody may make them.
pub(crate) fn with_folders(namespace: &Namespace) -> Imported {
    let layer = files(&[
        ("/bin/busybox", &bytes(), 0o755),
        ("/proc/.keep", b"", 0o644),
        ("/sys/.keep", b"", 0o644),
        ("/dev/.keep", b"", 0o644),
        ("/run/.keep", b"", 0o644),
    ]);
    image::import(namespace, "folders", |image| image.os("linux").entrypoint(["/bin/busybox"]).layer(layer))
}

/// Imports an ordinary image with busybox and two wasm files, whose entrypoint is the first of them.
pub(crate) fn with_wasm(namespace: &Namespace, first: &Program, second: &[u8]) -> Imported {
    let files = files(&[
        ("/bin/busybox", &bytes(), 0o755),
        ("/app/first.wasm", &first.bytes, 0o644),
        ("/app/second.wasm", second, 0o644),
    ]);
    image::import(namespace, "mixed", |image| image.os("linux").entrypoint(["/app/first.wasm"]).layer(files))
}

/// Waits until a process has been replaced by the program.
pub(crate) async fn replaces(pid: u32) {
    eventually("the program", Duration::from_secs(20), async || {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).expect("it runs");
        if name.trim_end() == "busybox" { Ok(()) } else { Err(name) }
    })
    .await;
}
