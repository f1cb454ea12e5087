//! The choice of the wasm that runs, its composition, and its imports.

use oci_tar_builder::media_type;
use prewasi_test::guests::{DEMO, DEMO_COMPONENT};
use prewasi_test::image::{self, Program};
use prewasi_test::manifest::{self, Blob};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};
use serde_json::{Value, json};

use super::{TITLE, assert_refused};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(entry_layer_of_an_artifact_is_chosen_by_title),
        case!(composed_component_runs),
        case!(import_that_the_config_names_is_refused_before_compiling),
        case!(engine_without_components_says_so),
    ]
}

fn wasm_config(component: Value) -> Blob {
    let config = json!({"architecture": "wasm", "os": "wasip2", "layerDigests": [], "component": component});
    Blob::new("application/vnd.wasm.config.v0+json", config.to_string().as_bytes())
}

/// Of several wasm layers of an artifact the one runs that is titled like the first argument; none is guessed.
async fn entry_layer_of_an_artifact_is_chosen_by_title(namespace: Namespace) {
    let demo = Program::guest(&namespace, DEMO);
    let other = Program::guest(&namespace, DEMO_COMPONENT);
    let blobs = [("a.wasm", &demo), ("b.wasm", &other)]
        .map(|(title, program)| Blob::new(media_type::WASM, &program.bytes).annotated(TITLE, title));
    // The config describes one layer of a component, but does not name the layer.
    let config = wasm_config(json!({"imports": ["example:greeting/words@1.0.0"]}));
    let image = manifest::import(&namespace, "several", &config, blobs.to_vec());
    for (program, compiled) in [("a.wasm", &demo), ("/b.wasm", &other)] {
        let exited = namespace.container(&image).args(&[program, "echo", program]).run().await;
        assert_eq!((exited.code, exited.stdout), (0, format!("{program}\n")));
        assert_eq!(namespace.daemon().journal().compiles(&compiled.digest).len(), 1);
    }
    let container = namespace.container(&image).args(&["c.wasm"]);
    assert_refused(&namespace, container, &["cannot choose a wasm layer", &image, "\"c.wasm\"", "a.wasm, b.wasm"])
        .await;
}

/// A component made of several components, one of which imports the export of another one.
fn composed(answer: u32) -> Vec<u8> {
    let text = format!(
        r#"(component
            (component $answers
                (core module $code (func (export "answer") (result i32) (i32.const {answer})))
                (core instance $code (instantiate $code))
                (func $answer (result u32) (canon lift (core func $code "answer")))
                (export "answer" (func $answer)))
            (component $asks
                (import "answer" (func $answer (result u32)))
                (core func $answer (canon lower (func $answer)))
                (core module $code
                    (import "other" "answer" (func $answer (result i32)))
                    (func (export "run") (result i32) (i32.ne (call $answer) (i32.const 42))))
                (core instance $code
                    (instantiate $code (with "other" (instance (export "answer" (func $answer))))))
                (func $run (result (result)) (canon lift (core func $code "run")))
                (export "run" (func $run)))
            (instance $answers (instantiate $answers))
            (instance $asks (instantiate $asks (with "answer" (func $answers "answer"))))
            (instance (export "wasi:cli/run@0.2.0") (export "run" (func $asks "run"))))"#
    );
    wat::parse_str(text).expect("the text is a component")
}

/// A component composed of several components runs, and they call each other.
async fn composed_component_runs(namespace: Namespace) {
    for (answer, code) in [(42, 0), (41, 1)] {
        let program = Program::new(image::marked(&composed(answer), namespace.name()));
        let image =
            image::import(&namespace, &format!("composed{answer}"), |image| image.layer(program.layer("c.wasm")));
        let exited = namespace.container(&image.name).run().await;
        assert_eq!((exited.code, &*exited.stderr), (code, ""), "{answer}");
    }
}

/// An import that the artifact's config names and the engine lacks is refused by its name, before a compile worker starts. A start and
/// `precompile` refuse it, and `inspect` reports it. Compatible versions of the engine's interfaces are no reason.
async fn import_that_the_config_names_is_refused_before_compiling(namespace: Namespace) {
    let text = r#"(component (import "example:greeting/words@1.0.0" (instance (export "hello" (func)))))"#;
    let wasm = wat::parse_str(text).expect("the text is a component");
    let program = Program::new(image::marked(&wasm, namespace.name()));
    let image = image::import_artifact(&namespace, "imports", program.layer("words.wasm"));
    let parts = [&*image.name, "\"example:greeting/words@1.0.0\"", "wasmtime does not provide", "component.imports"];
    assert_refused(&namespace, namespace.container(&image.name).args(&["words.wasm"]), &parts).await;
    namespace.prewasi("precompile", &[&image.name]).fails_with(1).says(&parts);
    namespace.prewasi("inspect", &[&image.name]).fails_with(1).says(&parts);
    assert_eq!(namespace.daemon().journal().compiles(&program.digest), []);
    namespace.assert_clean().await;

    // The config's word is taken before the layer is looked at, which is no wasm here.
    let broken = Blob::new(media_type::WASM, b"\x7fELF, and no wasm at all");
    let config = wasm_config(json!({"imports": ["wasi:io/poll@0.2.0", "wasi:keyvalue/store@0.2.0-draft"]}));
    let refused = manifest::import(&namespace, "unread", &config, vec![broken]);
    let parts = [&*refused, "\"wasi:keyvalue/store@0.2.0-draft\""];
    assert_refused(&namespace, namespace.container(&refused).args(&["x"]), &parts).await;

    let demo = Program::guest(&namespace, DEMO_COMPONENT);
    let blob = Blob::new(media_type::WASM, &demo.bytes);
    let config = wasm_config(json!({"imports": ["wasi:cli/environment@0.2.0", "wasi:http/outgoing-handler@0.2.99"]}));
    let image = manifest::import(&namespace, "compatible", &config, vec![blob]);
    let exited = namespace.container(&image).args(&["demo.wasm", "echo", "runs"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "runs\n"));
    // An entry that is no list of names is passed over.
    for (number, odd) in
        [json!(null), json!("x"), json!({"imports": {"a": 1}}), json!({"imports": [1, null]})].iter().enumerate()
    {
        let blob = Blob::new(media_type::WASM, &demo.bytes);
        let image = manifest::import(&namespace, &format!("odd{number}"), &wasm_config(odd.clone()), vec![blob]);
        assert_eq!(namespace.container(&image).args(&["demo.wasm", "exit", "3"]).run().await.code, 3, "{odd}");
    }
}

/// An engine that has no components says that of an artifact too, whichever imports its config names.
async fn engine_without_components_says_so(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO_COMPONENT);
    for (name, import) in [("known", "wasi:cli/environment@0.2.0"), ("unknown", "example:greeting/words@1.0.0")] {
        let blob = Blob::new(media_type::WASM, &program.bytes);
        let image = manifest::import(&namespace, name, &wasm_config(json!({"imports": [import]})), vec![blob]);
        let container = namespace.container(&image).args(&["demo.wasm", "exit", "7"]);
        match namespace.engine() {
            // The second time nothing is compiled any more.
            "wasmtime" => assert_eq!(container.run().await.code, 7),
            engine => assert_refused(&namespace, container, &[&format!("{engine} runs core modules"), &image]).await,
        }
    }
}
