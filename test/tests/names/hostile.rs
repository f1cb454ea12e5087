//! Images that have libraries of theirs wherever the C library looks for some by itself.

use std::path::Path;
use std::process::Command;

use prewasi_test::guests::{DEMO, NETWORK};
use prewasi_test::image::{self, Imported, Program, files};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case};

use crate::busybox;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(look_up_runs_nothing_of_the_image),
        case!(module_runs_nothing_of_the_image),
        case!(native_program_starts_without_libraries_of_the_image, needs Busybox),
        case!(function_that_looks_names_up_is_refused),
    ]
}

/// Where the C library looks for libraries, on either architecture.
const FOLDERS: [&str; 8] = [
    "/lib",
    "/usr/lib",
    "/lib64",
    "/usr/lib64",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
];
/// Libraries that it might look for: sources of names, the unwinder of threads, names in other scripts, conversions of texts.
const LIBRARIES: [&str; 9] = [
    "libnss_probe.so.2",
    "libnss_files.so.2",
    "libnss_dns.so.2",
    "libnss_compat.so.2",
    "libgcc_s.so.1",
    "libidn2.so.0",
    "gconv/PROBE.so",
    "gconv/UTF-16.so",
    "gconv/ISO8859-1.so",
];
const SOURCES: &str = "passwd: probe files\ngroup: probe files\ninitgroups: probe\nshadow: probe\nhosts: probe files dns\nservices: probe\n\
    protocols: probe\nnetworks: probe\nethers: probe\naliases: probe\n";
const CONVERSIONS: &str = "module UTF-8// INTERNAL PROBE 1\nmodule INTERNAL UTF-8// PROBE 1\nmodule ANSI_X3.4-1968// INTERNAL PROBE 1\n\
    module INTERNAL ANSI_X3.4-1968// PROBE 1\n";
/// Variables by which the C library would find more.
const VARIABLES: [&str; 14] = [
    "GCONV_PATH=/usr/lib/gconv",
    "LOCPATH=/usr/lib/locale",
    "NLSPATH=/usr/lib/%N",
    "LC_ALL=xx_XX.PROBE",
    "LANG=xx_XX.PROBE",
    "LANGUAGE=xx",
    "CHARSET=PROBE",
    "LD_PRELOAD=/lib/libnss_probe.so.2",
    "LD_AUDIT=/lib/libnss_probe.so.2",
    "LD_LIBRARY_PATH=/lib",
    "WASMEDGE_PLUGIN_PATH=/lib",
    "HOSTALIASES=/etc/hosts",
    "RES_OPTIONS=debug",
    "GLIBC_TUNABLES=glibc.rtld.nns=2",
];

/// Builds the library that says when it is loaded, and tries it on a program of this machine.
fn probe(folder: &Path) -> Vec<u8> {
    let library = folder.join("probe.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/probe.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-Wall", "-o"]).args([&library, &source]).output();
    let built = built.expect("there is a C compiler");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let loads = Command::new("true").env("LD_PRELOAD", &library).output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&loads.stderr), "code of the image runs\n");
    std::fs::remove_file("/loaded").expect("it has been made");
    std::fs::read(&library).expect("it has been built")
}

/// Makes the layer with all of it.
fn layer(namespace: &Namespace, more: &[(&str, &[u8], u32)]) -> oci_tar_builder::Layer {
    let probe = probe(namespace.folder());
    let paths: Vec<String> =
        FOLDERS.iter().flat_map(|folder| LIBRARIES.map(|library| format!("{folder}/{library}"))).collect();
    let lists: Vec<String> = FOLDERS.iter().map(|folder| format!("{folder}/gconv/gconv-modules")).collect();
    let mut all: Vec<(&str, &[u8], u32)> = paths.iter().map(|path| (path.as_str(), &*probe, 0o755)).collect();
    all.extend(lists.iter().map(|path| (path.as_str(), CONVERSIONS.as_bytes(), 0o644)));
    all.extend([
        ("/etc/nsswitch.conf", SOURCES.as_bytes(), 0o644),
        ("/etc/hosts", &b"10.2.2.1 known\n"[..], 0o644),
        ("/etc/passwd", &b"root:x:0:0::/root/home:/bin/sh\n"[..], 0o644),
    ]);
    all.extend(more);
    files(&all)
}

/// Says whether a library of the image was loaded into a process with the container's root.
fn was_loaded(container: &Container) -> bool {
    container.bundle().join("rootfs/loaded").exists()
}

/// Runs an image with all variables, and returns its output. Nothing of the image was loaded.
async fn run(namespace: &Namespace, image: &Imported, args: &[&str]) -> String {
    let builder = VARIABLES.iter().fold(namespace.container(&image.name), |builder, variable| builder.env(variable));
    let mut container = builder.args(args).create().await;
    assert!(!was_loaded(&container), "code of the image ran before the program was started");
    container.start().await;
    let code = container.wait().await;
    assert!(!was_loaded(&container), "code of the image ran in the process of its program");
    let (stdout, stderr) = (container.stdout(), container.stderr());
    container.delete().await;
    assert_eq!((code, &*stderr), (0, ""));
    stdout
}

/// A component looks names up, and none of the image's libraries is loaded; the image's list of hosts counts, and no rule of its own.
async fn look_up_runs_nothing_of_the_image(namespace: Namespace) {
    let program = Program::guest(&namespace, NETWORK);
    let layer = layer(&namespace, &[]);
    let image = image::import(&namespace, "hostile", |image| image.layer(program.layer("names.wasm")).layer(layer));
    let printed = run(&namespace, &image, &["known", "b\u{fc}cher.example", "unknown.example"]).await;
    assert_eq!(printed, "known 10.2.2.1\nb\u{fc}cher.example error 19\nunknown.example error 19\n");
}

/// A module runs to its end with each engine, and none of the image's libraries is loaded.
async fn module_runs_nothing_of_the_image(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let layer = layer(&namespace, &[]);
    let image = image::import(&namespace, "hostile", |image| image.layer(program.layer("demo.wasm")).layer(layer));
    assert_eq!(run(&namespace, &image, &["echo", "fine"]).await, "fine\n");
}

/// Before a native program is started, or executed in a running container, its home is looked up in the image's list of users. No library
/// of the image is loaded.
async fn native_program_starts_without_libraries_of_the_image(namespace: Namespace) {
    let layer = layer(&namespace, &[("/bin/busybox", &busybox::bytes(), 0o755)]);
    let image =
        image::import(&namespace, "hostile", |image| image.os("linux").entrypoint(["/bin/busybox"]).layer(layer));
    let mut container =
        namespace.container(&image.name).args(&["sh", "-c", "echo $HOME; exec busybox sleep 600"]).create().await;
    assert!(!was_loaded(&container));
    container.start().await;
    container.prints("/root/home\n").await;
    let exited = container.exec(&["/bin/busybox", "sh", "-c", "echo $HOME"]).run().await;
    assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (0, "/root/home\n", ""));
    assert!(!was_loaded(&container));
    container.end().await;
}

/// Functions of engines beyond WASI that look names up would ask the C library, so they cannot be imported.
async fn function_that_looks_names_up_is_refused(namespace: Namespace) {
    for name in ["sock_addr_resolve", "sock_getaddrinfo", "resolve"] {
        let text = format!(
            r#"(module (import "wasi_snapshot_preview1" "{name}" (func (param i32 i32 i32 i32 i32 i32) (result i32)))
                (memory (export "memory") 1) (func (export "_start")))"#
        );
        let program = Program::new(wat::parse_str(&text).expect("it is wasm"));
        let image = image::import(&namespace, &format!("resolves-{name}").replace('_', "-"), |image| {
            image.layer(program.layer("resolves.wasm"))
        });
        let Err(status) = namespace.container(&image.name).try_create().await else {
            panic!("{name} was accepted");
        };
        assert!(status.message().contains(&format!("cannot provide import {name:?}")), "{status}");
    }
}
