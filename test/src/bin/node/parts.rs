//! The files that a node gets: the programs, the cases, guests, and a newer containerd beside its own.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use oci_tar_builder::{Builder, Format, Layer, media_type};
use prewasi_test::{Series, guests, home, image, process};

use crate::error::NodeError;
use crate::machine::{Machine, disk};

/// The programs that `make install` installs.
const PROGRAMS: [&str; 3] = ["prewasi", "containerd-shim-wasmtime-v1", "oci-tar-builder"];

/// Time limit for the node to install everything.
const LIMIT: Duration = Duration::from_secs(300);

/// Installs everything on a node, whose containerd is then that of the series.
pub(crate) fn install(machine: &Machine, series: Series) -> Result<(), NodeError> {
    let folder = machine.place().parts();
    fs::remove_dir_all(&folder).map_err(NodeError::file(&folder))?;
    lay_out(&folder)?;
    let fetch = "rm -rf /opt/node && mkdir /opt/node && tar -C /opt/node --no-same-owner -xf - </dev/tcp/10.0.2.100/80";
    machine.must_run("hand the node its parts", fetch, LIMIT)?;
    machine.must_run("install the programs on the node", &format!("/opt/node/suite/install {series}"), LIMIT)?;
    Ok(())
}

/// Returns the folder of the programs: `PREWASI_BIN`, else that of a release build.
fn programs() -> PathBuf {
    let built = || {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| home::home().join("target"), PathBuf::from);
        target.join("release")
    };
    env::var_os("PREWASI_BIN").map_or_else(built, PathBuf::from)
}

/// Fills a folder. Large files are links: the archive contains their targets.
fn lay_out(folder: &Path) -> Result<(), NodeError> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = |name: &str| folder.join(name);
    for name in ["", "programs", "guests", "images"] {
        fs::create_dir(own(name)).map_err(NodeError::file(own(name)))?;
    }
    for name in PROGRAMS {
        strip(&programs().join(name), &own("programs").join(name))?;
    }
    let client = env::current_exe().map_err(NodeError::file("/proc/self/exe"))?;
    strip(&client, &own("client"))?;
    let link = |to: &Path, name: &str| symlink(to, own(name)).map_err(NodeError::file(own(name)));
    link(&here.join("node/suite"), "suite")?;
    link(&here.join("../precompiler/deploy"), "deploy")?;
    let newer = home::part(Series::V2_1.to_string());
    if newer.exists() {
        link(&newer, &Series::V2_1.to_string())?;
    }
    link(&guests::path(guests::DEMO), "guests/demo.wasm")?;
    link(&guests::path(guests::DEMO_COMPONENT), "guests/demo-component.wasm")?;
    link(&guests::path(guests::NETWORK), "guests/network-component.wasm")?;
    images(&own("images"))
}

/// Copies a program without its debug information, which makes a test build several times larger.
fn strip(from: &Path, to: &Path) -> Result<(), NodeError> {
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(to).arg(from);
    let output = process::run(&mut strip, LIMIT);
    if output.status.success() {
        return Ok(());
    }
    Err(NodeError::Failed { action: "copy a program", reason: output.stderr })
}

/// Packs the images: busybox, which is also the pods' image, and the demo program.
fn images(folder: &Path) -> Result<(), NodeError> {
    let path = disk()?.join("busybox");
    let busybox = fs::read(&path).map_err(NodeError::file(path))?;
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n";
    let files = || image::files(&[("/bin/busybox", &busybox, 0o755), ("/etc/passwd", passwd, 0o644)]);
    let pause = |image: Builder| image.os("linux").entrypoint(["/bin/busybox", "sleep", "1000000"]).layer(files());
    write(folder, "pause", "registry.invalid/pause:1", pause)?;
    write(folder, "busybox", "localhost/busybox:1", |image| image.os("linux").layer(files()))?;
    let path = guests::path(guests::DEMO);
    let demo = Layer::read(media_type::WASM, &path);
    let demo =
        demo.map_err(|error| NodeError::Failed { action: "pack the demo program", reason: error.to_string() })?;
    // A pull or import for the node's own platform accepts a manifest without an index.
    write(folder, "demo", "localhost/demo:1", |image| image.entrypoint(["demo.wasm"]).layer(demo))
}

fn write(
    folder: &Path,
    name: &str,
    reference: &str,
    describe: impl FnOnce(Builder) -> Builder,
) -> Result<(), NodeError> {
    let failed = |reason: String| NodeError::Failed { action: "pack an image", reason };
    let reference = reference.parse().map_err(|error| failed(format!("{error}")))?;
    let image = describe(Builder::new(Format::Image, reference)).build().map_err(|error| failed(error.to_string()))?;
    image.write_file(&folder.join(format!("{name}.tar"))).map(drop).map_err(|error| failed(error.to_string()))
}
