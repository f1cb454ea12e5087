//! The images of the cases, under the names that the README and the shipped manifests use, and the blocks of the README.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use oci_tar_builder::{Builder, Format, Layer, media_type};
use prewasi_test::cri::Cri;
use prewasi_test::image::{self, files};
use prewasi_test::{guests, home, process};

/// Wasm that prints, exits, traps and takes memory, as its arguments say; the README's name for a program.
pub(crate) const HELLO: &str = "registry.example/hello:v1";
/// busybox, which serves `/healthz` on port 8080; the README's name for a side-car.
pub(crate) const PROXY: &str = "registry.example/proxy:v1";
/// A component that answers HTTP requests.
pub(crate) const WEB: &str = "registry.example/web:v1";
/// The same component in a newer version: `/env/VERSION` is 2.
pub(crate) const WEB_NEXT: &str = "registry.example/web:v2";
/// The program `prewasi`; the shipped DaemonSet's name.
const PREWASI: &str = "registry.example/prewasi:0.1.0";

const LIMIT: Duration = Duration::from_secs(60);

/// Returns the blocks of the README in a language.
pub(crate) fn readme(language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(path).expect("the README is there");
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1).filter_map(|rest| rest.split("```").next());
    blocks.map(str::to_owned).collect()
}

/// Returns the shipped DaemonSet with the objects that it needs.
pub(crate) fn daemon_set() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../precompiler/deploy/daemonset.yaml");
    fs::read_to_string(path).expect("the file is there")
}

/// Returns the program busybox.
pub(crate) fn busybox() -> Vec<u8> {
    let path = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::read(path.expect("busybox has been looked for")).expect("busybox can be read")
}

/// Returns the digest of the program in [`HELLO`].
pub(crate) fn hello_digest() -> String {
    image::digest(&fs::read(guests::path(guests::DEMO)).expect("the guest is there"))
}

/// Fills the registry.
pub(crate) fn push(cri: &Cri) {
    let wasm = |name: &str, title: &str| {
        let bytes = fs::read(guests::path(name)).expect("the guest is there");
        Layer::from_bytes(media_type::WASM, title, bytes).expect("the guest is valid wasm")
    };
    push_as(cri, HELLO, |image| image.layer(wasm(guests::DEMO, "hello.wasm")).entrypoint(["/hello.wasm"]));
    for (name, version) in [(WEB, "1"), (WEB_NEXT, "2")] {
        let web = || wasm(guests::WEB, "web.wasm");
        push_as(cri, name, |image| image.layer(web()).entrypoint(["/web.wasm"]).env("VERSION", version));
    }
    let tools = files(&[("/bin/busybox", &busybox(), 0o755), ("/www/healthz", b"well\n", 0o644)]);
    let serve = ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"];
    push_as(cri, PROXY, |image| image.os("linux").entrypoint(serve).layer(tools));
    push_as(cri, PREWASI, |image| image.os("linux").layer(prewasi()).env("PATH", "/usr/local/bin"));
}

/// Pushes an image under a name that stands for the registry.
pub(crate) fn push_as(cri: &Cri, name: &str, describe: impl FnOnce(Builder) -> Builder) {
    let (_, name) = name.split_once('/').expect("a name with a registry");
    cri.push(name, Format::Image, describe);
}

/// Packs the program `prewasi` with the libraries that it is linked with.
fn prewasi() -> Layer {
    let program = home::program("prewasi");
    let output = process::run(Command::new("ldd").arg(&program), LIMIT).success();
    let libraries = output.stdout.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let stripped = tempfile::NamedTempFile::new().expect("/tmp is writable");
    // Debug information makes a test build several times larger.
    process::run(Command::new("strip").arg("-o").arg(stripped.path()).arg(&program), LIMIT).success();
    let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let mut contents = vec![("/usr/local/bin/prewasi".to_owned(), read(stripped.path()))];
    contents.extend(libraries.map(|path| (path.to_owned(), read(&PathBuf::from(path)))));
    let contents: Vec<(&str, &[u8], u32)> = contents.iter().map(|(path, bytes)| (&**path, &**bytes, 0o755)).collect();
    image::files(&contents)
}
