//! Images run: output, exit codes, arguments, environment.

use oci_tar_builder::{Builder, Format, media_type};
use prewasi_test::guests::{DEMO, DEMO_COMPONENT};
use prewasi_test::image::{self, Program, files};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(wasm_image_prints_and_exits),
        case!(image_is_imported_as_the_readme_does),
        case!(wasm_image_in_an_index_runs),
        case!(wasm_file_in_an_ordinary_image_runs),
        case!(wasm_text_in_an_ordinary_image_runs),
        case!(component_image_runs),
        case!(wasm_artifact_runs),
        case!(named_export_is_called),
        case!(arguments_and_environment_arrive_intact),
        case!(stdout_and_stderr_are_apart),
        case!(guest_writes_and_reads_files),
        case!(trap_ends_with_134_and_says_so),
        case!(large_table_is_no_obstacle),
        case!(ctr_shows_output_and_exit_code),
    ]
}

/// The exit codes that a guest may end with: success, its own, the largest.
const CODES: [u32; 3] = [0, 7, 255];

/// Imports the demo program as a wasm image called `demo`.
fn demo(namespace: &Namespace) -> String {
    let program = Program::guest(namespace, DEMO);
    image::import(namespace, "demo", |image| image.layer(program.layer("demo.wasm"))).name
}

/// Asserts that containers of an image print the expected text and end with the guest's exit code.
async fn assert_runs(namespace: &Namespace, image: &str) {
    let exited = namespace.container(image).args(&["echo", "hello", "world"]).run().await;
    assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (0, "hello world\n", ""));
    for code in CODES {
        let exited = namespace.container(image).args(&["exit", &code.to_string()]).run().await;
        assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (code, "", ""));
    }
}

/// A container of a wasm image prints its program's output, and ends with its exit code.
async fn wasm_image_prints_and_exits(namespace: Namespace) {
    let image = demo(&namespace);
    assert_runs(&namespace, &image).await;
}

/// The README's import makes an image that runs, with every containerd.
async fn image_is_imported_as_the_readme_does(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let reference = "localhost/readme:v1".parse().expect("a plain name");
    let image = Builder::new(Format::Image, reference).layer(program.layer("demo.wasm")).build();
    let tar = namespace.folder().join("readme.tar");
    image.expect("the image is well described").write_file(&tar).expect("the folder is ours");
    namespace.ctr(&["images", "import", "--all-platforms", &tar.to_string_lossy()]).success();
    assert_runs(&namespace, "localhost/readme:v1").await;
}

/// A wasm image inside an image index runs like one without.
async fn wasm_image_in_an_index_runs(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image =
        image::import(&namespace, "indexed", |image| image.platform_index(true).layer(program.layer("demo.wasm")));
    assert_runs(&namespace, &image.name).await;
    let run = [
        "run",
        "--rm",
        "--platform=wasip1/wasm",
        &format!("--runtime={}", namespace.runtime()),
        &image.name,
        "indexed",
    ];
    let output = namespace.ctr(&[&run[..], &["demo.wasm", "echo", "by", "ctr"]].concat()).success();
    assert_eq!((&*output.stdout, &*output.stderr), ("by ctr\n", ""));
}

/// A `.wasm` file in the file system of an ordinary image runs when the entrypoint names it.
async fn wasm_file_in_an_ordinary_image_runs(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "files", |image| {
        image.os("linux").entrypoint(["/app/demo.wasm"]).layer(files(&[("/app/demo.wasm", &program.bytes, 0o755)]))
    });
    assert_runs(&namespace, &image.name).await;
}

/// A `.wat` file in the file system of an ordinary image runs when the entrypoint names it.
async fn wasm_text_in_an_ordinary_image_runs(namespace: Namespace) {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start") (call $exit (i32.const 7))))"#;
    let image = image::import(&namespace, "text", |image| {
        image.os("linux").entrypoint(["/app.wat"]).layer(files(&[("/app.wat", text.as_bytes(), 0o644)]))
    });
    let exited = namespace.container(&image.name).run().await;
    assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (7, "", ""));
}

/// A container of a component image prints its program's output, and ends with its exit code.
async fn component_image_runs(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO_COMPONENT);
    let image = image::import(&namespace, "component", |image| image.layer(program.layer("demo-component.wasm")));
    assert_runs(&namespace, &image.name).await;
    let typed = oci_tar_builder::Layer::from_bytes(media_type::COMPONENT, "demo-component.wasm", program.bytes);
    let image = image::import(&namespace, "typed", |image| image.layer(typed.expect("the component is valid")));
    let exited = namespace.container(&image.name).args(&["echo", "typed"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "typed\n"));
}

/// A CNCF wasm artifact, which has no entrypoint, runs with the arguments of its container.
async fn wasm_artifact_runs(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import_artifact(&namespace, "artifact", program.layer("demo.wasm"));
    let exited = namespace.container(&image.name).args(&["demo.wasm", "echo", "artifact"]).run().await;
    assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (0, "artifact\n", ""));
}

/// An entrypoint `file.wasm#function` calls that export instead of the usual entry point.
async fn named_export_is_called(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "greet", |image| {
        image.entrypoint(["demo.wasm#greet"]).layer(program.layer("demo.wasm"))
    });
    let exited = namespace.container(&image.name).run().await;
    assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (0, "hello from greet\n", ""));
}

/// Arguments and environment reach the guest byte by byte: empty ones, spaces, quotes, umlauts, equals signs.
async fn arguments_and_environment_arrive_intact(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "environment", |image| {
        image.env("FROM_IMAGE", "image value").layer(program.layer("demo.wasm"))
    });
    let words = ["a  b", "", "\"quoted\"", "$HOME", "grün", "--flag=x"];
    let exited = namespace.container(&image.name).args(&[&["echo"], &words[..]].concat()).run().await;
    assert_eq!(exited.stdout, format!("{}\n", words.join(" ")));
    let variables = ["EMPTY=", "EQUALS=a=b", "SPACES= a b ", "UMLAUT=ä"];
    let mut container = namespace.container(&image.name).args(&["env"]);
    for variable in variables {
        container = container.env(variable);
    }
    let exited = container.run().await;
    let lines: Vec<&str> = exited.stdout.lines().collect();
    for variable in variables.iter().chain(&["FROM_IMAGE=image value"]) {
        assert_eq!(lines.iter().filter(|line| *line == variable).count(), 1, "{variable} once in {lines:?}");
    }
}

/// The guest's text on standard output and standard error arrives there and nowhere else.
async fn stdout_and_stderr_are_apart(namespace: Namespace) {
    let image = demo(&namespace);
    let exited = namespace.container(&image).args(&["stderr", "to stderr"]).run().await;
    assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (0, "", "to stderr\n"));
    let exited = namespace.container(&image).args(&["echo", "to stdout"]).run().await;
    assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (0, "to stdout\n", ""));
}

/// A guest sees the container's own file system: the next container reads the files that one container writes into a mount.
async fn guest_writes_and_reads_files(namespace: Namespace) {
    let image = demo(&namespace);
    let shared = namespace.folder().join("shared");
    std::fs::create_dir(&shared).expect("the folder is ours");
    let mount = serde_json::json!({
        "destination": "/data", "type": "bind", "source": shared, "options": ["rbind", "rw"],
    });
    let container = namespace.container(&image).mount(mount.clone());
    let exited = container.args(&["write", "/data/file", "some text"]).run().await;
    assert_eq!((exited.code, &*exited.stderr), (0, ""));
    let exited = namespace.container(&image).mount(mount).args(&["read", "/data/file"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "some text\n"));
    assert_eq!(std::fs::read_to_string(shared.join("file")).expect("the guest has written it"), "some text\n");
}

/// A trap ends the container with 134, and its standard error names the trap.
async fn trap_ends_with_134_and_says_so(namespace: Namespace) {
    let image = demo(&namespace);
    let exited = namespace.container(&image).args(&["trap"]).run().await;
    assert_eq!(exited.code, 134);
    assert!(exited.stderr.contains("unreachable"), "{}", exited.stderr);
}

/// A module with a table of 100,000 entries runs.
async fn large_table_is_no_obstacle(namespace: Namespace) {
    let program = Program::guest(&namespace, prewasi_test::guests::LARGE_TABLE);
    let image = image::import(&namespace, "table", |image| image.layer(program.layer("table.wasm")));
    let exited = namespace.container(&image.name).run().await;
    assert_eq!((exited.code, &*exited.stderr), (42, ""));
}

/// `ctr run` shows a guest's output on the right stream and ends with its exit code.
async fn ctr_shows_output_and_exit_code(namespace: Namespace) {
    let image = demo(&namespace);
    let output = namespace.ctr_run(&image, &["demo.wasm", "echo", "by", "ctr"]).success();
    assert_eq!((&*output.stdout, &*output.stderr), ("by ctr\n", ""));
    let output = namespace.ctr_run(&image, &["demo.wasm", "stderr", "by ctr"]).success();
    assert_eq!((&*output.stdout, &*output.stderr), ("", "by ctr\n"));
    for code in CODES {
        namespace.ctr_run(&image, &["demo.wasm", "exit", &code.to_string()]).fails_with(code.cast_signed());
    }
}
