//! Images that cannot run: each is refused with an error of its own, and leaves nothing behind.

use oci_tar_builder::{Layer, media_type};
use prewasi_test::guests::{DEMO, UNKNOWN_IMPORT};
use prewasi_test::image::{self, Imported, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(native_code_is_refused),
        case!(engine_artifact_is_refused),
        case!(truncated_module_is_refused),
        case!(unknown_import_is_refused),
        case!(long_names_are_cut),
        case!(config_without_wasm_is_refused),
        case!(missing_blob_is_refused),
        case!(unknown_layer_type_is_refused),
        case!(missing_export_is_refused),
        case!(refused_over_the_api_leaves_nothing),
    ]
}

/// Asserts that `ctr run` fails, that its output says each of `parts` and names the image, and that nothing is left.
async fn assert_refused(namespace: &Namespace, image: &Imported, parts: &[&str]) {
    let output = namespace.ctr_run(&image.name, &["program.wasm"]);
    assert!(!output.status.success(), "expected failure of {output}");
    output.says(&[&image.name]).says(parts);
    namespace.assert_clean().await;
    // `precompile` refuses it, too, without running it.
    let output = namespace.program("prewasi", "precompile", &[&image.name]).fails_with(1);
    output.says(&[&image.name]).says(parts);
    namespace.assert_clean().await;
}

/// Imports a wasm image of one layer that nobody has checked.
fn unchecked(namespace: &Namespace, name: &str, program: &Program) -> Imported {
    image::import(namespace, name, |image| image.os("wasip1").entrypoint(["program.wasm"]).layer(program.unchecked()))
}

/// A layer that is an executable is refused by name, under any type, and never compiled or loaded.
async fn native_code_is_refused(namespace: Namespace) {
    let executable = std::fs::read("/proc/self/exe").expect("this program can be read");
    let program = Program::new(executable[..4096].to_vec());
    let image = unchecked(&namespace, "native", &program);
    assert_refused(&namespace, &image, &[&program.digest, "native code", "ELF"]).await;
    assert_eq!(namespace.daemon().journal().compiles(&program.digest), []);
}

/// A layer that is an artifact of this very engine is refused all the same: the shim loads only code that this node compiled.
async fn engine_artifact_is_refused(namespace: Namespace) {
    use prewasi_engines::{Engine as _, Wasm, Wasmtime};
    let demo = Program::guest(&namespace, DEMO);
    let wasm = Wasm::new(demo.bytes).expect("the demo program is wasm");
    let program = Program::new(Wasmtime::new().compile(&wasm).expect("the demo program compiles"));
    let image = unchecked(&namespace, "artifact", &program);
    assert_refused(&namespace, &image, &[&program.digest, "native code"]).await;
}

/// A truncated module is refused with its layer and where it ends.
async fn truncated_module_is_refused(namespace: Namespace) {
    let mut demo = Program::guest(&namespace, DEMO);
    demo.bytes.truncate(demo.bytes.len() / 2);
    let program = Program::new(demo.bytes);
    let image = unchecked(&namespace, "truncated", &program);
    assert_refused(&namespace, &image, &[&program.digest, "cannot compile", "offset"]).await;
    let program = Program::new(b"\0asm\x01".to_vec());
    let image = unchecked(&namespace, "short", &program);
    assert_refused(&namespace, &image, &[&program.digest, "truncated after 5 bytes"]).await;
}

/// A module with an import that nobody offers is refused, with the name of the import.
async fn unknown_import_is_refused(namespace: Namespace) {
    let program = Program::guest(&namespace, UNKNOWN_IMPORT);
    let image = unchecked(&namespace, "import", &program);
    assert_refused(&namespace, &image, &[&program.digest, "cannot provide import"]).await;
}

/// A name that fills a pipe is cut in the message, and the compile ends at once.
async fn long_names_are_cut(namespace: Namespace) {
    const LENGTH: u8 = 5;
    let number = |number: u32| leb128(number, LENGTH);
    let name = vec![b'm'; 100_000];
    let import = [&[1][..], &number(name.len() as u32), &name, &[1, b'f', 0, 0]].concat();
    let start = b"\x01\x06_start\0\x01";
    let sections: [(u8, &[u8]); 5] =
        [(1, &[1, 0x60, 0, 0]), (2, &import), (3, &[1, 0]), (7, start), (10, &[1, 2, 0, 0x0b])];
    let bytes = sections.iter().fold(b"\0asm\x01\0\0\0".to_vec(), |bytes, (id, body)| {
        [&bytes[..], &[*id], &number(body.len() as u32), body].concat()
    });
    let program = Program::new(bytes);
    let image = unchecked(&namespace, "names", &program);
    assert_refused(&namespace, &image, &[&program.digest, "cannot provide import \"f\" of \"mmm", "m…\""]).await;
}

/// Encodes a number in a number of bytes.
fn leb128(number: u32, length: u8) -> Vec<u8> {
    let part = |place: u8| (number >> (7 * place)) as u8 & 0x7f | if place + 1 < length { 0x80 } else { 0 };
    (0..length).map(part).collect()
}

/// A wasm layer under a config for this machine is refused, and the error names the config's platform and the right one.
async fn config_without_wasm_is_refused(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "config", |image| image.os("linux").layer(program.unchecked()));
    assert_refused(&namespace, &image, &[&program.digest, "config says linux/"]).await;
}

/// An image whose layer is not in the content store is refused, and the error names the layer and the remedy.
async fn missing_blob_is_refused(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "missing", |image| image.layer(program.layer("program.wasm")));
    namespace.delete_blob(&program.digest).await;
    assert_refused(&namespace, &image, &[&program.digest, "not in the content store", "pull the image again"]).await;
}

/// A layer of a type that nobody knows is refused, with the type.
async fn unknown_layer_type_is_refused(namespace: Namespace) {
    let layer = Layer::unchecked("application/vnd.example.unknown", b"whatever this is".to_vec());
    let digest = layer.digest().to_string();
    let image = image::import(&namespace, "unknown", |image| image.os("wasip1").entrypoint(["x"]).layer(layer));
    assert_refused(&namespace, &image, &[&digest, "unknown type", "application/vnd.example.unknown"]).await;
}

/// An entrypoint that names an export which is not there is refused, with the export's name.
async fn missing_export_is_refused(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "export", |image| {
        image.entrypoint(["demo.wasm#missing"]).layer(program.layer("demo.wasm"))
    });
    namespace.ctr_run(&image.name, &["demo.wasm#missing"]).fails_with(1).says(&["missing"]);
    namespace.assert_clean().await;
}

/// Over the API the same error comes back from Create, and no task, bundle, mount or process stays.
async fn refused_over_the_api_leaves_nothing(namespace: Namespace) {
    let program = Program::new(b"\x7fELF\x02\x01\x01 not really".to_vec());
    let image = image::import(&namespace, "api", |image| {
        image.os("wasip1").entrypoint(["x"]).layer(Layer::unchecked(media_type::WASM, program.bytes.clone()))
    });
    let Err(status) = namespace.container(&image.name).try_create().await else { panic!("native code was accepted") };
    for part in [image.name.as_str(), &program.digest, "native code (ELF)"] {
        assert!(status.message().contains(part), "{part:?} in {status}");
    }
    namespace.assert_clean().await;
}
