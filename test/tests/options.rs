//! The configuration: the node's file, the options of the runtime, annotations, and the effect of each option.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use prewasi_test::guests::{DEMO, NETWORK};
use prewasi_test::image::{self, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Containerd, Exited, Namespace, case};
use serde_json::json;
use tonic::Code;

use crate::busybox;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(layers_count_in_their_order),
        case!(ctr_passes_a_file_and_annotations),
        case!(unknown_options_are_refused_with_the_nearest),
        case!(annotations_are_allow_listed),
        case!(broken_file_of_the_node_is_named),
        case!(limits_of_a_compile_are_configured),
        case!(root_is_the_default),
        case!(read_only_root_cannot_be_changed),
        case!(mounts_alone),
        case!(no_folders_at_all),
        case!(network_is_inherited_or_none),
        case!(memory_limit_is_an_error_of_the_guest),
        case!(timeout_ends_the_guest),
        case!(fuel_ends_the_guest),
        case!(stack_limit_is_a_trap),
        case!(code_ahead_of_time_is_that_of_the_runtime_class),
        case!(image_says_how_it_is_compiled),
        case!(options_that_cannot_be_had_are_named),
        case!(processes_that_are_executed_have_the_options_too),
        case!(native_programs_have_their_spec, needs Busybox),
    ]
}

/// Imports the demo program and returns the image's name.
fn demo(namespace: &Namespace) -> String {
    let program = Program::guest(namespace, DEMO);
    image::import(namespace, "demo", |image| image.layer(program.layer("demo.wasm"))).name
}

/// Makes a namespace on a containerd that this test alone uses, and writes the node's file.
async fn node(namespace: &Namespace, file: &str) -> Namespace {
    let namespace = Namespace::create(Arc::new(Containerd::start(namespace.daemon().series()).await)).await;
    fs::write(namespace.daemon().options(), file).expect("the folder is ours");
    namespace
}

/// Runs a demo container with these options of the runtime.
async fn run(namespace: &Namespace, image: &str, options: &str, args: &[&str]) -> Exited {
    namespace.container(image).options(options).args(args).run().await
}

/// Asserts that Create refuses a container with these options and annotation, that it says each of `parts`, and that
/// nothing is left.
async fn assert_refused(namespace: &Namespace, image: &str, options: &str, annotation: (&str, &str), parts: &[&str]) {
    let container = namespace.container(image).options(options).annotation(annotation.0, annotation.1);
    let Err(status) = container.try_create().await else { panic!("{options:?} and {annotation:?} were accepted") };
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    for part in parts {
        assert!(status.message().contains(part), "{part:?} in {status}");
    }
    namespace.assert_clean().await;
}

/// An annotation counts over the options of the runtime, these over the node's file, and that over the defaults.
async fn layers_count_in_their_order(namespace: Namespace) {
    let namespace = node(&namespace, "memory_limit = \"4MiB\"\n").await;
    let image = demo(&namespace);
    let allocate = async |options: &str, annotation: Option<&str>| {
        let mut container = namespace.container(&image).options(options).args(&["allocate", "16"]);
        if let Some(value) = annotation {
            container = container.annotation("prewasi.io/memory_limit", value);
        }
        container.run().await.code
    };
    assert_eq!(allocate("", None).await, 1, "the file");
    assert_eq!(allocate("memory_limit = \"64MiB\"", None).await, 0, "the runtime over the file");
    assert_eq!(allocate("memory_limit = \"64MiB\"", Some("4MiB")).await, 1, "the annotation over the runtime");
    assert_eq!(allocate("", Some("none")).await, 0, "the annotation over the file");
    fs::write(namespace.daemon().options(), "").expect("the folder is ours");
    assert_eq!(allocate("", None).await, 0, "what is built in, as soon as the file has changed");
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// `ctr run` can name a file of options and set annotations.
async fn ctr_passes_a_file_and_annotations(namespace: Namespace) {
    let image = demo(&namespace);
    let file = namespace.folder().join("options.toml");
    fs::write(&file, "memory_limit = \"4MiB\"\n").expect("the folder is ours");
    let file = file.to_string_lossy();
    let run = |more: &[&str]| {
        let id = namespace.fresh_id("ctr");
        let runtime = ["run", "--rm", "--runtime", &namespace.runtime(), "--runtime-config-path", &file];
        namespace.ctr(&[&runtime, more, &[&image, &id, "demo.wasm", "allocate", "16"]].concat())
    };
    run(&[]).fails_with(1).says(&["cannot allocate memory"]);
    run(&["--annotation", "prewasi.io/memory_limit=64MiB"]).success();
    run(&["--annotation", "prewasi.io/memorylimit=64MiB"]).fails_with(1).says(&["prewasi.io/memory_limit"]);
    fs::write(&*file, "memory = 1\n").expect("the folder is ours");
    run(&[]).fails_with(1).says(&[&file, "no option is called \"memory\"", "memory_limit"]);
    namespace.assert_clean().await;
}

/// Unknown options, impossible values, and messages of another type are refused by Create. The error names each of them and the correct
/// form.
async fn unknown_options_are_refused_with_the_nearest(namespace: Namespace) {
    let image = demo(&namespace);
    let other = ("example.com/any", "thing");
    let refused = async |options: &str, annotation, parts: &[&str]| {
        assert_refused(&namespace, &image, options, annotation, parts).await;
    };
    refused("netwrok = \"none\"", other, &["the options of the runtime", "\"netwrok\"", "\"network\""]).await;
    refused("network = \"non\"", other, &["network cannot be \"non\"", "\"inherit\", \"none\""]).await;
    refused("network =", other, &["the options of the runtime, line 1"]).await;
    refused("", ("prewasi.io/time_out", "1s"), &["prewasi.io/time_out", "prewasi.io/timeout"]).await;
    refused("", ("prewasi.io/timeout", "1"), &["prewasi.io/timeout", "cannot be \"1\"", "30s"]).await;
    let message = prewasi_test::container::RuntimeOptions::default();
    let container = namespace.container(&image).packed_options("containerd.odd.v1.Options", message);
    let Err(status) = container.try_create().await else { panic!("odd options were accepted") };
    assert!(status.message().contains("containerd.odd.v1.Options"), "{status}");
    namespace.assert_clean().await;
}

/// An annotation that the administrator does not allow is refused, and an annotation of others is passed over.
async fn annotations_are_allow_listed(namespace: Namespace) {
    let image = demo(&namespace);
    let options = "allowed_annotations = [\"timeout\"]";
    let parts = ["prewasi.io/network", "allows annotations for [timeout] only"];
    assert_refused(&namespace, &image, options, ("prewasi.io/network", "none"), &parts).await;
    let parts = ["prewasi.io/compile_slots", "it is not known"];
    assert_refused(&namespace, &image, "", ("prewasi.io/compile_slots", "9"), &parts).await;
    let container = namespace.container(&image).options(options).annotation("prewasi.io/timeout", "1h");
    let exited = container.annotation("example.com/network", "x").args(&["echo", "fine"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "fine\n"));
}

/// A mistake in the node's file keeps containers from being created and commands from working, and is named with the file.
async fn broken_file_of_the_node_is_named(namespace: Namespace) {
    let namespace = node(&namespace, "").await;
    let image = demo(&namespace);
    let file = namespace.daemon().options();
    fs::write(&file, "timeout = \"1h\"\ncompile_memry = \"1GiB\"\n").expect("the folder is ours");
    let parts = [&*file.to_string_lossy(), "\"compile_memry\"", "\"compile_memory\""];
    assert_refused(&namespace, &image, "", ("example.com/a", "b"), &parts).await;
    for (verb, args) in [("precompile", &[&*image][..]), ("ls", &[]), ("doctor", &[])] {
        namespace.prewasi(verb, args).fails_with(1).says(&parts);
    }
    fs::remove_file(&file).expect("the file is ours");
    assert_refused(&namespace, &image, "", ("example.com/a", "b"), &["cannot read", parts[0]]).await;
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// The limits of a compile that are configured hold for the shim and for the command, and the error names them.
async fn limits_of_a_compile_are_configured(namespace: Namespace) {
    let namespace = node(&namespace, "compile_timeout = \"1ms\"\n").await;
    let image = demo(&namespace);
    let parts = [&*image, "the compile was stopped"];
    assert_refused(&namespace, &image, "", ("example.com/a", "b"), &parts).await;
    namespace.prewasi("precompile", &[&image]).fails_with(1).says(&parts);
    let exited = run(&namespace, &image, "compile_timeout = \"300s\"", &["echo", "compiled"]).await;
    assert_eq!(exited.stdout, "compiled\n");
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// Without any option a guest has all of its root with the mounts, and may write wherever the system lets it.
async fn root_is_the_default(namespace: Namespace) {
    let image = demo(&namespace);
    for options in ["", "preopens = \"root\""] {
        let exited = run(&namespace, &image, options, &["write", "/file", "text"]).await;
        assert_eq!((exited.code, &*exited.stderr), (0, ""), "{options}");
        let exited = run(&namespace, &image, options, &["read", "/proc/self/comm"]).await;
        assert_eq!((exited.code, &*exited.stdout), (0, "demo.wasm\n"), "{options}");
    }
}

/// A folder of the test's own with a file in it, mounted at `/data`.
fn mounted(namespace: &Namespace) -> serde_json::Value {
    let folder = namespace.folder().join("mounted");
    fs::create_dir_all(&folder).expect("the folder is ours");
    fs::write(folder.join("file"), "from the mount\n").expect("the folder is ours");
    json!({ "destination": "/data", "type": "bind", "source": folder, "options": ["rbind", "rw"] })
}

/// With a read-only root everything can be read and nothing changed, in mounts neither.
async fn read_only_root_cannot_be_changed(namespace: Namespace) {
    let image = demo(&namespace);
    let mount = mounted(&namespace);
    let container =
        |args: &[&str]| namespace.container(&image).mount(mount.clone()).options("preopens = \"read-only\"").args(args);
    let exited = container(&["read", "/data/file"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "from the mount\n"), "{}", exited.stderr);
    for path in ["/file", "/data/file", "/run/file"] {
        let exited = container(&["write", path]).run().await;
        assert_eq!(exited.code, 1, "{path}");
        assert!(exited.stderr.starts_with(&format!("cannot open {path}: ")), "{}", exited.stderr);
    }
    let file = namespace.folder().join("mounted/file");
    assert_eq!(fs::read_to_string(file).expect("the folder is ours"), "from the mount\n");
}

/// With the mounts alone a guest reads and writes in them, and nothing else of its root or of the system's is there.
async fn mounts_alone(namespace: Namespace) {
    let image = demo(&namespace);
    let mount = mounted(&namespace);
    let container = |args: &[&str]| {
        let container = namespace.container(&image).mount(mount.clone());
        container.annotation("prewasi.io/preopens", "mounts").args(args)
    };
    let exited = container(&["read", "/data/file"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "from the mount\n"), "{}", exited.stderr);
    let exited = container(&["write", "/data/new", "written"]).run().await;
    assert_eq!((exited.code, &*exited.stderr), (0, ""));
    let new = namespace.folder().join("mounted/new");
    assert_eq!(fs::read_to_string(new).expect("the guest has written it"), "written\n");
    for path in ["/proc/self/comm", "/sys/kernel/mm", "/dev/null", "/file"] {
        let exited = container(&["read", path]).run().await;
        assert_eq!((exited.code, &*exited.stdout), (1, ""), "{path}");
    }
    // Mounts that are no folders are not for the guest.
    let socket = namespace.folder().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("the folder is ours");
    for source in [Path::new("/dev/null"), &socket] {
        let mount = json!({ "destination": "/other", "type": "bind", "source": source, "options": ["rbind"] });
        let exited = container(&["read", "/data/file"]).mount(mount).run().await;
        assert_eq!((exited.code, &*exited.stdout), (0, "from the mount\n"), "{}: {}", source.display(), exited.stderr);
    }
}

/// Without folders a guest runs, and opens nothing.
async fn no_folders_at_all(namespace: Namespace) {
    let image = demo(&namespace);
    let options = "preopens = \"none\"";
    let exited = run(&namespace, &image, options, &["echo", "runs"]).await;
    assert_eq!((exited.code, &*exited.stdout), (0, "runs\n"));
    for args in [["read", "/proc/self/comm"], ["write", "/file"]] {
        let exited = run(&namespace, &image, options, &args).await;
        assert_eq!((exited.code, &*exited.stdout), (1, ""));
        assert!(exited.stderr.contains("cannot open"), "{}", exited.stderr);
    }
}

/// A component binds a socket and looks up a name in its container's network. Without a network both are refused (1: access denied, 20: no
/// resolver).
async fn network_is_inherited_or_none(namespace: Namespace) {
    let program = Program::guest(&namespace, NETWORK);
    let image = image::import(&namespace, "network", |image| image.layer(program.layer("network.wasm"))).name;
    for options in ["", "network = \"inherit\""] {
        let exited = run(&namespace, &image, options, &[]).await;
        assert_eq!((exited.code, &*exited.stdout), (0, "bind 0\nlookup 0\n"), "{}", exited.stderr);
    }
    let exited = run(&namespace, &image, "network = \"none\"", &[]).await;
    assert_eq!((exited.code, &*exited.stdout), (0, "bind 1 1\nlookup 1 20\n"), "{}", exited.stderr);
}

/// A guest that asks for more memory than its limit gets an error and goes on. A guest that needs more at its start does not start, and the
/// error names the reason.
async fn memory_limit_is_an_error_of_the_guest(namespace: Namespace) {
    let image = demo(&namespace);
    let exited = run(&namespace, &image, "memory_limit = \"8MiB\"", &["allocate", "16"]).await;
    assert_eq!((exited.code, &*exited.stdout), (1, ""));
    assert!(exited.stderr.starts_with("cannot allocate memory"), "{}", exited.stderr);
    for options in ["memory_limit = \"8MiB\"", "memory_limit = \"none\"", ""] {
        let exited = run(&namespace, &image, options, &["allocate", "4"]).await;
        assert_eq!((exited.code, &*exited.stdout), (0, "allocated 4 MiB\n"), "{options}");
    }
    let exited = run(&namespace, &image, "memory_limit = 65536", &["echo"]).await;
    assert_eq!((exited.code, &*exited.stdout), (126, ""));
    assert!(exited.stderr.contains("exceeds memory limits"), "{}", exited.stderr);
}

/// A guest that exceeds its time ends with 134 and a reason, whether it waits or computes. A guest that ends earlier keeps its own exit
/// code.
async fn timeout_ends_the_guest(namespace: Namespace) {
    let image = demo(&namespace);
    for (args, printed) in [(&["sleep", "60"][..], "sleeping 60\n"), (&["spin"], "spinning\n")] {
        let exited = run(&namespace, &image, "timeout = \"1500ms\"", args).await;
        assert_eq!(exited.code, 134, "{args:?}");
        assert!(exited.stdout.is_empty() || exited.stdout == printed, "{}", exited.stdout);
        assert!(exited.stderr.contains("ran for longer than 1.5s"), "{}", exited.stderr);
    }
    let exited = run(&namespace, &image, "timeout = \"10m\"", &["exit", "7"]).await;
    assert_eq!((exited.code, &*exited.stderr), (7, ""));
}

/// A guest that executes more than it may traps, wherever its fuel was named; one that needs less ends as usual.
async fn fuel_ends_the_guest(namespace: Namespace) {
    let image = demo(&namespace);
    let exited = run(&namespace, &image, "fuel = 5_000_000", &["spin"]).await;
    assert_eq!(exited.code, 134, "{}", exited.stderr);
    assert!(exited.stderr.contains("all fuel consumed"), "{}", exited.stderr);
    let exited = namespace.container(&image).annotation("prewasi.io/fuel", "100").args(&["echo", "a"]).run().await;
    assert_eq!(exited.code, 134, "{}", exited.stderr);
    let exited = run(&namespace, &image, "fuel = 5_000_000", &["exit", "7"]).await;
    assert_eq!((exited.code, &*exited.stderr), (7, ""));
}

/// A guest whose calls need more stack than it has traps; with more of it the same guest ends as usual.
async fn stack_limit_is_a_trap(namespace: Namespace) {
    let wasm = wat::parse_str(
        r#"(module (memory (export "memory") 1)
            (func $deep (param $n i32) (result i32)
                (if (result i32) (local.get $n)
                    ;; What is done with the result keeps it from becoming a loop.
                    (then (i32.store (i32.const 0) (call $deep (i32.sub (local.get $n) (i32.const 1))))
                        (i32.load (i32.const 0)))
                    (else (i32.const 0))))
            (func (export "_start") (drop (call $deep (i32.const 50000)))))"#,
    );
    let program = Program::new(wasm.expect("the text is valid"));
    let image = image::import(&namespace, "deep", |image| image.layer(program.layer("deep.wasm"))).name;
    let exited = run(&namespace, &image, "stack_limit = \"64KiB\"", &[]).await;
    assert_eq!(exited.code, 134, "{}", exited.stderr);
    assert!(exited.stderr.contains("call stack exhausted"), "{}", exited.stderr);
    assert_eq!(run(&namespace, &image, "stack_limit = \"64MiB\"", &[]).await.code, 0);
}

/// `precompile --config` makes the code that containers of that runtime class run: none of them compiles, and others get
/// other code. `ls` shows it, and `prune` leaves it.
async fn code_ahead_of_time_is_that_of_the_runtime_class(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "demo", |image| image.layer(program.layer("demo.wasm"))).name;
    let compiles = || namespace.daemon().journal().compiles(&program.digest).len();
    let class = "optimize = \"size\"\nwasm_proposals = [\"-relaxed-simd\"]\ncompile_parallel = false\n";
    let fuel = if namespace.engine() == "wasmtime" { "fuel = 1_000_000_000\n" } else { "" };
    let class = &format!("{class}{fuel}");
    let file = namespace.folder().join("class.toml");
    fs::write(&file, class).expect("the folder is ours");
    let config = file.to_str().expect("the path is text");
    let plain = namespace.folder().join("plain.toml");
    fs::write(&plain, "network = \"none\"\n").expect("the folder is ours");
    namespace.prewasi("precompile", &["--config", config, "--config", plain.to_str().expect("text"), &image]).success();
    assert_eq!(compiles(), 2);
    for options in [class, "", "network = \"none\"\ncompile_parallel = false"] {
        assert_eq!(run(&namespace, &image, options, &["exit", "7"]).await.code, 7, "{options}");
    }
    assert_eq!(compiles(), 2);
    assert_eq!(run(&namespace, &image, "optimize = \"none\"", &["exit", "7"]).await.code, 7);
    assert_eq!(compiles(), 3);
    let listed = namespace.prewasi("ls", &[]).success().stdout;
    assert_eq!((listed.matches("current").count(), listed.matches("tuned").count()), (1, 2), "{listed}");
    namespace.prewasi("verify", &[]).success();
    namespace.prewasi("prune", &["--keep", "0"]).success();
    assert_eq!(run(&namespace, &image, class, &["exit", "7"]).await.code, 7);
    assert_eq!(compiles(), 3);
}

/// An image's own annotations set how it is compiled and run, for `precompile` and for a start alike. The administrator's settings count
/// more, and options that an image may not set are refused.
async fn image_says_how_it_is_compiled(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "says", |image| {
        let image = image.annotation("prewasi.io/optimize", "size").annotation("prewasi.io/memory_limit", "8MiB");
        image.layer(program.layer("demo.wasm"))
    });
    let compiles = || namespace.daemon().journal().compiles(&program.digest).len();
    namespace.prewasi("precompile", &[&image.name]).success();
    let inspected = namespace.prewasi("inspect", &[&image.name]).success().stdout;
    assert!(inspected.contains("a start with"), "{inspected}");
    assert!(inspected.contains("maps this artifact"), "{inspected}");
    assert_eq!(run(&namespace, &image.name, "", &["allocate", "16"]).await.code, 1);
    assert_eq!(run(&namespace, &image.name, "memory_limit = \"64MiB\"", &["allocate", "16"]).await.code, 0);
    assert_eq!(compiles(), 1);
    assert_eq!(run(&namespace, &image.name, "optimize = \"speed\"", &["exit", "7"]).await.code, 7);
    assert_eq!(compiles(), 2);
    let greedy = image::import(&namespace, "greedy", |image| {
        image.annotation("prewasi.io/network", "inherit").layer(program.layer("demo.wasm"))
    });
    let said = "annotation prewasi.io/network of image localhost/greedy:latest: it is not known";
    namespace.prewasi("precompile", &[&greedy.name]).fails_with(1).says(&[said]);
    namespace.prewasi("inspect", &[&greedy.name]).fails_with(1).says(&[said]);
    assert_refused(&namespace, &greedy.name, "", ("example.com/a", "b"), &[said]).await;
}

/// An option that the engine does not support is refused with the supported ones.
async fn options_that_cannot_be_had_are_named(namespace: Namespace) {
    let image = demo(&namespace);
    let none = ("example.com/a", "b");
    assert_refused(
        &namespace,
        &image,
        "wasm_proposals = [\"-nothing\"]",
        none,
        &["proposal \"-nothing\" with", namespace.engine()],
    )
    .await;
    assert_refused(&namespace, &image, "stack_limit = 1", none, &["cannot give a guest a stack of 1 bytes"]).await;
    let simd = wat::parse_str(r#"(module (func (export "_start") (drop (v128.const i32x4 0 0 0 0))))"#);
    let program = Program::new(simd.expect("the text is valid"));
    let image = image::import(&namespace, "simd", |image| image.layer(program.layer("simd.wasm"))).name;
    assert_refused(&namespace, &image, "wasm_proposals = [\"-simd\"]", none, &["SIMD", &image]).await;
}

/// A wasm program that is executed in a running container may do no more than the container's own.
async fn processes_that_are_executed_have_the_options_too(namespace: Namespace) {
    let image = demo(&namespace);
    let container = namespace.container(&image).annotation("prewasi.io/memory_limit", "8MiB");
    let mut container = container.options("preopens = \"none\"").create().await;
    container.start().await;
    container.prints("tick 1\n").await;
    for args in [["read", "/proc/self/comm"], ["allocate", "16"]] {
        let exited = container.exec(&["demo.wasm", args[0], args[1]]).run().await;
        assert_eq!((exited.code, &*exited.stdout), (1, ""), "{args:?}");
    }
    assert_eq!(container.exec(&["demo.wasm", "allocate", "4"]).run().await.code, 0);
    container.end().await;
}

/// A native program follows its spec: options are for wasm, though mistakes in them are refused all the same.
async fn native_programs_have_their_spec(namespace: Namespace) {
    let image = busybox::image(&namespace).name;
    let options = "preopens = \"none\"\nnetwork = \"none\"\nmemory_limit = 1\ntimeout = \"1ms\"";
    let exited = run(&namespace, &image, options, &["cat", "/proc/self/comm"]).await;
    assert_eq!((exited.code, &*exited.stdout), (0, "busybox\n"), "{}", exited.stderr);
    assert_refused(&namespace, &image, "timeouts = \"1s\"", ("example.com/a", "b"), &["\"timeout\""]).await;
}
