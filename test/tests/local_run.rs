//! `prewasi run`: programs without containers.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use oci_tar_builder::{Layer, media_type};
use prewasi_cache::{ArtifactCache, ArtifactKey, LayoutStore};
use prewasi_engines::{Engine as _, Wasm, Wasmtime, version_label};
use prewasi_test::guests::{self, DEMO, DEMO_COMPONENT, UNKNOWN_IMPORT, WEB};
use prewasi_test::http;
use prewasi_test::image::{self, Program, files};
use prewasi_test::local::{Local, run};
use prewasi_test::process::Output;
use prewasi_test::trial::{Case, local_trials};
use prewasi_test::{Namespace, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(image_of_containerd_runs), case!(unknown_image_cannot_run)]
}

pub(crate) fn trials() -> Vec<Trial> {
    local_trials![
        archive_runs_and_exits_with_the_guests_code,
        trap_ends_with_134_and_says_so,
        layout_is_compiled_once,
        files_run,
        image_says_how_it_starts,
        guest_has_the_folders_that_it_is_given,
        what_cannot_run_ends_with_126,
        data_needs_a_container_or_a_folder,
        one_of_several_images_is_chosen_by_name,
        native_code_of_a_layouts_author_is_not_run,
        other_users_need_no_root,
        folder_that_somebody_else_made_is_not_used,
        compile_takes_lower_limits,
        server_does_without_much_address_space,
        server_leaves_nothing_behind,
    ]
}

fn program(name: &str) -> Program {
    Program::new(fs::read(guests::path(name)).expect("the guest is there"))
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("a plain path")
}

fn archive(local: &Local) -> String {
    text(local.archive("demo", |image| image.layer(program(DEMO).layer("demo.wasm"))))
}

/// An archive of `oci-tar-builder` runs: its output, and its exit codes.
fn archive_runs_and_exits_with_the_guests_code() {
    let local = Local::new();
    let archive = archive(&local);
    let output = local.prewasi(&["run", &archive, "echo", "hello", "--flag", "a  b"]).success();
    assert_eq!((&*output.stdout, &*output.stderr), ("hello --flag a  b\n", ""));
    for code in [0, 7, 64, 255] {
        let output = local.prewasi(&["run", &archive, "exit", &code.to_string()]).fails_with(code);
        assert_eq!((&*output.stdout, &*output.stderr), ("", ""));
    }
    let component = local.archive("component", |image| image.layer(program(DEMO_COMPONENT).layer("demo.wasm")));
    assert_eq!(local.prewasi(&["run", &text(component), "echo", "component"]).success().stdout, "component\n");
}

/// A trap ends with 134, and standard error has its message and backtrace.
fn trap_ends_with_134_and_says_so() {
    let local = Local::new();
    local.prewasi(&["run", &archive(&local), "trap"]).fails_with(134).says(&[
        "trapped",
        "unreachable",
        "wasm function",
    ]);
}

/// The first run of a layout compiles and keeps the code, the second finds it.
fn layout_is_compiled_once() {
    let local = Local::new();
    let demo = program(DEMO);
    let layout = text(local.layout("demo", |image| image.layer(demo.layer("demo.wasm"))));
    for name in [layout.clone(), format!("oci:{layout}")] {
        assert_eq!(local.prewasi(&["run", &name, "echo", "layout"]).success().stdout, "layout\n");
    }
    let named = local.prewasi(&["run", "--store", &format!("oci:{layout}"), "localhost/demo", "exit", "3"]);
    named.fails_with(3);
    let store = format!("oci:{layout}");
    let mut command = local.command();
    command.env("CONTAINERD_ADDRESS", "/none").env("CONTAINERD_NAMESPACE", "none");
    run(command.args(["run", "--store", &store, "localhost/demo", "exit", "4"])).fails_with(4);
    let both = local.prewasi(&["run", "--store", &store, "--namespace", "default", "localhost/demo"]);
    both.fails_with(64).says(&["--store", "--namespace"]);
    fs::create_dir(local.path("folder")).expect("the folder is ours");
    local.prewasi(&["run", "folder"]).fails_with(126).says(&["folder", "no index.json"]);
    assert_eq!(local.journal().compiles(&demo.digest).len(), 1);
}

/// Wasm and WAT files run as they are, and `#function` calls an export.
fn files_run() {
    let local = Local::new();
    let wasm = text(local.file("demo.wasm", &program(DEMO).bytes));
    assert_eq!(local.prewasi(&["run", &wasm, "echo", "file"]).success().stdout, "file\n");
    assert_eq!(local.prewasi(&["run", &format!("{wasm}#greet")]).success().stdout, "hello from greet\n");
    assert_eq!(local.prewasi(&["run", "demo.wasm", "exit", "9"]).fails_with(9).stderr, "");
    let source = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start") (call $exit (i32.const 5))))"#;
    local.file("five.wat", source.as_bytes());
    // All that follows is the program's.
    for args in [&[][..], &["--version"], &["-h"], &["--", "x"]] {
        local.prewasi(&[&["run", "./five.wat"], args].concat()).fails_with(5);
    }
}

/// Entrypoint, arguments, environment and function come from the image; options change them as container tools do.
fn image_says_how_it_starts() {
    let local = Local::new();
    let archive = text(local.archive("demo", |image| {
        image
            .entrypoint(["demo.wasm", "env"])
            .env("A", "of image")
            .env("B", "2")
            .layer(program(DEMO).layer("demo.wasm"))
    }));
    let stdout = |args: &[&str]| local.prewasi(&[&["run"], args].concat()).success().stdout;
    assert_eq!(stdout(&[&archive, "A", "B"]), "A=of image\nB=2\n");
    assert_eq!(stdout(&["--env", "B=3=3", "-e", "C=", &archive, "A", "B", "C"]), "A=of image\nB=3=3\nC=\n");
    let passed = run(local.command().env("PASSED", "on").args(["run", "--env", "PASSED", &archive, "PASSED"]));
    assert_eq!(passed.success().stdout, "A=of image\nB=2\nPASSED=on\n");
    assert_eq!(stdout(&["--entrypoint", "demo.wasm", &archive, "echo", "other"]), "other\n");
    assert_eq!(stdout(&["--entrypoint", "demo.wasm#greet", &archive]), "hello from greet\n");
}

/// Without a container there is nothing to mount an image's data in: it is refused, unless `--dir` gives a folder in that place.
fn data_needs_a_container_or_a_folder() {
    let local = Local::new();
    let archive = text(local.archive("data", |image| {
        let data = Layer::from_bytes(media_type::DATA, "text", b"text\n".to_vec()).expect("anything is data");
        image.layer(program(DEMO).layer("demo.wasm")).layer(data.mounted_at("/data/text").expect("a plain path"))
    }));
    local.prewasi(&["run", &archive, "read", "/data/text"]).fails_with(126).says(&[
        "error: cannot run image localhost/data:latest",
        "/data/text",
        "needs a container",
        "hint: ",
        "--dir",
    ]);
    let folder = local.path("own");
    fs::create_dir(&folder).expect("the folder is ours");
    local.file("own/text", b"own text\n");
    let folder = |guest: &str| format!("{}:{guest}", folder.display());
    let output = local.prewasi(&["run", "--dir", &folder("/data"), &archive, "read", "/data/text"]).success();
    assert_eq!(output.stdout, "own text\n");
    local.prewasi(&["run", "--dir", &folder("/other"), &archive, "read", "/data/text"]).fails_with(126);
}

/// A guest reads and writes the folders that `--dir` names, and no others.
fn guest_has_the_folders_that_it_is_given() {
    let local = Local::new();
    let (archive, folder) = (archive(&local), local.path("data"));
    fs::create_dir(&folder).expect("the folder is ours");
    let mapped = format!("{}:/mapped", folder.display());
    local.prewasi(&["run", "--dir", &mapped, &archive, "write", "/mapped/file", "written"]).success();
    assert_eq!(fs::read_to_string(folder.join("file")).expect("written"), "written\n");
    let given = folder.display().to_string();
    let read = local.prewasi(&["run", "--dir", &given, &archive, "read", &format!("{given}/file")]).success();
    assert_eq!(read.stdout, "written\n");
    local.prewasi(&["run", &archive, "read", &format!("{given}/file")]).fails_with(1);
    local.prewasi(&["run", "--dir", &mapped, &archive, "read", "/mapped/../demo.tar"]).fails_with(1);
    local.prewasi(&["run", "--dir", "/no/such", &archive, "exit", "0"]).fails_with(126).says(&["/no/such"]);
}

/// A program that cannot run ends with 126 and a reason; a wrong command line ends with 64.
fn what_cannot_run_ends_with_126() {
    let local = Local::new();
    let fails =
        |args: &[&str], said: &[&str]| drop(local.prewasi(&[&["run"], args].concat()).fails_with(126).says(said));
    fails(&["./nothing.wasm"], &["cannot find ./nothing.wasm"]);
    local.file("text.wasm", b"no wasm");
    fails(&["text.wasm"], &["text.wasm", "not wasm"]);
    local.file("native.wasm", &fs::read("/proc/self/exe").expect("this program")[..4096]);
    fails(&["native.wasm"], &["native.wasm", "native code", "ELF"]);
    local.file("unknown.wasm", &program(UNKNOWN_IMPORT).bytes);
    fails(&["unknown.wasm"], &["unknown.wasm", "cannot provide import"]);
    local.file("demo.wasm", &program(DEMO).bytes);
    fails(&["demo.wasm#nothing"], &["demo.wasm", "nothing", "there is none of that name"]);
    local.file("some.tar", &[b'x'; 4096]);
    fails(&["some.tar"], &["cannot read archive some.tar"]);
    local.file("some.tar.gz", b"\x1f\x8b\x08");
    fails(&["some.tar.gz"], &["compressed", "hint:"]);
    fails(&["oci:nothing"], &["cannot run nothing", "no OCI image layout"]);
    let ordinary = local.archive("ordinary", |image| {
        image.os("linux").entrypoint(["/demo.wasm"]).layer(files(&[("/demo.wasm", &program(DEMO).bytes, 0o755)]))
    });
    fails(&[&text(ordinary)], &["localhost/ordinary:latest", "no wasm layer", "hint:"]);
    let junk = Layer::unchecked(oci_tar_builder::media_type::WASM, b"junk".to_vec());
    let junk = local.archive("junk", |image| image.os("wasip1").entrypoint(["junk.wasm"]).layer(junk));
    fails(&[&text(junk)], &["localhost/junk:latest", "not wasm"]);
    for wrong in [&["run"][..], &["run", "--dir", "", "x"], &["run", "--no-such-option", "x"]] {
        local.prewasi(wrong).fails_with(64);
    }
}

/// Of several images in a layout one is chosen by its name; without it the error lists them.
fn one_of_several_images_is_chosen_by_name() {
    let local = Local::new();
    let first = local.layout("first", |image| image.layer(program(DEMO).layer("demo.wasm")));
    let second = local.layout("second", |image| image.entrypoint(["x", "exit", "4"]).layer(program(DEMO).layer("x")));
    for blob in fs::read_dir(second.join("blobs/sha256")).expect("a layout").flatten() {
        fs::copy(blob.path(), first.join("blobs/sha256").join(blob.file_name())).expect("the folder is ours");
    }
    let read = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(path.join("index.json")).expect("an index")).expect("JSON")
    };
    let mut index = read(&first);
    let added = read(&second)["manifests"][0].clone();
    index["manifests"].as_array_mut().expect("a list").push(added);
    fs::write(first.join("index.json"), index.to_string()).expect("the folder is ours");
    let names = ["localhost/first:latest", "localhost/second:latest", "hint: --image"];
    local.prewasi(&["run", "first"]).fails_with(126).says(&names);
    local.prewasi(&["run", "--image", "localhost/second:latest", "first"]).fails_with(4);
    local.prewasi(&["run", "--image", "localhost/third", "first"]).fails_with(126).says(&["localhost/third"]);
}

/// Labels that came with a layout do not make its native code run: the wasm is compiled again. A user who trusts the layout gets the code
/// that its author compiled.
fn native_code_of_a_layouts_author_is_not_run() {
    let local = Local::new();
    let demo = program(DEMO);
    let layout = local.layout("demo", |image| image.layer(demo.layer("demo.wasm")));
    forge(
        &layout,
        &demo,
        r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start") (call $exit (i32.const 66))))"#,
    );
    let layout = text(layout);
    local.prewasi(&["run", "--trust-layout", &layout, "exit", "3"]).fails_with(66);
    assert_eq!(local.journal().compiles(&demo.digest), []);
    for _ in 0..2 {
        local.prewasi(&["run", &layout, "exit", "3"]).fails_with(3);
        assert_eq!(local.journal().compiles(&demo.digest).len(), 1);
    }
}

/// Stores native code of another program as that of `program`, as the author of a layout can.
fn forge(layout: &Path, program: &Program, text: &str) {
    let engine = Wasmtime::new();
    let wasm = Wasm::new(wat::parse_str(text).expect("valid text")).expect("wasm");
    let native = engine.compile(&wasm).expect("it compiles");
    let source: prewasi_cache::Digest = program.digest.parse().expect("a digest");
    let key = ArtifactKey {
        anchor: source.clone(),
        source,
        engine: engine.name().to_owned(),
        version: version_label(&engine),
        fingerprint: engine.fingerprint().hex().to_owned(),
    };
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), &native).expect("the file is ours");
    let stamps = tempfile::tempdir().expect("a temporary folder");
    let store = std::sync::Arc::new(LayoutStore::open(layout).expect("the layout is there"));
    let cache = ArtifactCache::new(store, stamps.path().join("stamps"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let details = Default::default();
    let stored = cache.store(&key, file.as_file(), native.len() as u64, &details);
    runtime.block_on(stored).expect("the layout is ours");
}

/// Users who may run this as another user.
fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("not run: {test}: only root can become another user");
        assert!(!prewasi_test::home::is_ci(), "CI runs as root");
    }
    is_root
}

/// Any user runs archives, files and layouts, their own and read-only ones of others. The compiler has its sandbox. Artifacts lie in the
/// user's own runtime folder, closed to others.
fn other_users_need_no_root() {
    const USER: u32 = 65_533;
    if !is_root("other_users_need_no_root") {
        return;
    }
    let local = Local::new();
    let demo = program(DEMO);
    let runtime = local.folder_of(USER, "of-user");
    let prewasi = |args: &[&str]| -> Output {
        run(local.command_as(USER).env("XDG_RUNTIME_DIR", &runtime).env("TMPDIR", &runtime).args(args))
    };
    let archive = archive(&local);
    let output = prewasi(&["run", &archive, "echo", "nobody"]).success();
    assert_eq!((&*output.stdout, &*output.stderr), ("nobody\n", ""));
    prewasi(&["run", &archive, "trap"]).fails_with(134);
    let wasm = text(local.file("demo.wasm", &demo.bytes));
    prewasi(&["run", &wasm, "exit", "6"]).fails_with(6);

    // Root's layout, in which root has precompiled: the user's own compile, which cannot be kept.
    let layout = local.layout("layout", |image| image.layer(demo.layer("demo.wasm")));
    local.prewasi(&["precompile", "--all", "--store", &format!("oci:{}", layout.display())]).success();
    let before = listed(&layout);
    assert_eq!(prewasi(&["run", &text(layout.clone()), "echo", "root's"]).success().stdout, "root's\n");
    assert_eq!(listed(&layout), before);

    let own = runtime.join("prewasi");
    let metadata = fs::metadata(&own).expect("the runtime folder was made");
    assert_eq!((metadata.uid(), metadata.permissions().mode() & 0o777), (USER, 0o700));
    assert!(!prewasi_test::journal::Journal::new(&own).compiles(&demo.digest).is_empty());
    let left: Vec<_> = fs::read_dir(&runtime).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["prewasi"], "temporary folders are removed");
}

/// A program is compiled although this process may have less processor time than a compile.
fn compile_takes_lower_limits() {
    let local = Local::new();
    let prewasi = local.command();
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -t 60; exec \"$0\" \"$@\""]).arg(prewasi.get_program());
    shell.arg("run").arg(archive(&local)).args(["exit", "7"]).env("PREWASI_RUNTIME_DIR", local.runtime_dir());
    let output = shell.output().expect("it runs");
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A component that serves does so although there is no address space for a pool of instances.
fn server_does_without_much_address_space() {
    // 64 GiB, where a pool takes 1 TiB.
    assert_eq!(counts("ulimit -v 67108864;"), vec![Ok((200, "1\n".to_owned())); REQUESTS]);
}

/// No instance of a server finds data of another one. (A process that lives on while others serve makes the pool. The system must report
/// the written pages of the serving processes, not of that one.)
fn server_leaves_nothing_behind() {
    assert_eq!(counts(""), vec![Ok((200, "1\n".to_owned())); REQUESTS]);
}

const REQUESTS: usize = 16;

/// Serves by a shell that begins with some words, and asks instances how many requests they have answered.
fn counts(begin: &str) -> Vec<Result<(u16, String), String>> {
    let local = Local::new();
    let address = format!("127.0.0.1:{}", http::free_port());
    let prewasi = local.command();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{begin} exec \"$0\" \"$@\"")]).arg(prewasi.get_program());
    shell.args(["run", "--env", &format!("PREWASI_HTTP_ADDRESS={address}")]).arg(guests::path(WEB));
    shell.env("PREWASI_RUNTIME_DIR", local.runtime_dir()).stderr(Stdio::null());
    let mut server = shell.spawn().expect("it runs");
    let start = Instant::now();
    let ask = || loop {
        match http::get(&address, "/count") {
            Err(_) if start.elapsed() < Duration::from_secs(30) => std::thread::sleep(Duration::from_millis(50)),
            answer => break answer,
        }
    };
    let answers = (0..REQUESTS).map(|_| ask()).collect();
    server.kill().and_then(|()| server.wait()).expect("it is ours");
    answers
}

/// Lists all files below a folder.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        paths.push(entry.path());
        if entry.path().is_dir() {
            paths.extend(listed(&entry.path()));
        }
    }
    paths.sort();
    paths
}

/// Without a folder of its session a user has one in `/tmp`. If another user made it first, nothing is put there, and the program runs all
/// the same.
fn folder_that_somebody_else_made_is_not_used() {
    if !is_root("folder_that_somebody_else_made_is_not_used") {
        return;
    }
    // Nobody's numbers: one for each run of the tests, so that two runs do not meet.
    let user = 1_000_000_000 + std::process::id();
    let folder = PathBuf::from(format!("/tmp/prewasi-{user}"));
    let local = Local::new();
    let archive = archive(&local);
    run(local.command_as(user).args(["run", &archive, "exit", "3"])).fails_with(3);
    let made = fs::metadata(&folder).map(|metadata| (metadata.uid(), metadata.permissions().mode() & 0o777));
    let removed = fs::remove_dir_all(&folder);
    assert_eq!(made.expect("it was made"), (user, 0o700));
    removed.expect("root may remove it");

    fs::create_dir(&folder).expect("nothing is there");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("the folder is ours");
    let output = run(local.command_as(user).args(["run", &archive, "exit", "3"]));
    let inside = listed(&folder);
    fs::remove_dir(&folder).expect("it is empty");
    output.fails_with(3);
    assert_eq!(inside, Vec::<PathBuf>::new());
}

/// An image of containerd runs without a container, from the very code that containers share.
async fn image_of_containerd_runs(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "demo", |image| image.layer(program.layer("demo.wasm")));
    assert_eq!(namespace.prewasi("run", &[&image.name, "echo", "local"]).success().stdout, "local\n");
    namespace.prewasi("run", &[&image.name, "exit", "5"]).fails_with(5);
    assert_eq!(namespace.container(&image.name).args(&["echo", "contained"]).run().await.stdout, "contained\n");
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
}

/// An image that containerd does not have ends with 126 and a hint.
async fn unknown_image_cannot_run(namespace: Namespace) {
    namespace.prewasi("run", &["localhost/nothing:latest"]).fails_with(126).says(&["localhost/nothing", "hint:"]);
}
