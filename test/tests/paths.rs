//! A path of a wasm program leads to the same file as that of a native program, links of the image and mounts included.

use std::fs;

use prewasi_test::guests::{self, PATHS, PATHS_COMPONENT, PATHS_NATIVE};
use prewasi_test::image::{self, Program, files, links};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, home};
use serde_json::json;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(paths_lead_where_native_ones_do, needs Runc),
        case!(paths_that_climb_lead_where_native_ones_do, needs Runc),
        case!(paths_change_what_native_ones_do, needs Runc),
        case!(paths_remove_what_native_ones_do, needs Runc),
        case!(paths_from_another_folder_do_as_native_ones, needs Runc),
        case!(paths_of_components_do_as_native_ones, needs Runc),
        case!(working_directory_and_root_are_told_apart, needs Runc),
        case!(libraries_with_ways_of_their_own_find_their_files, needs Runc),
        case!(programs_of_compilers_go, needs Runc Compilers),
        case!(programs_of_compilers_zig, needs Runc Compilers),
        case!(programs_of_compilers_zig_with_libc, needs Runc Compilers),
        case!(programs_of_compilers_assemblyscript, needs Runc Compilers),
        case!(path_that_may_be_either_is_refused),
        case!(service_account_behind_a_link_is_read, needs Runc),
        case!(paths_never_lead_out_of_the_container),
        case!(read_only_folders_stay_so_behind_links),
    ]
}

const RUNC: &str = "io.containerd.runc.v2";

/// An image with the program as wasm and for this machine, and with links of all kinds.
fn image(namespace: &Namespace, guest: &str) -> String {
    image_of(namespace, &guest.replace('.', "-"), &Program::guest(namespace, guest))
}

fn image_of(namespace: &Namespace, name: &str, wasm: &Program) -> String {
    let native = fs::read(guests::path(PATHS_NATIVE)).expect("the guests are built");
    let layer = files(&[
        ("/bin/paths.wasm", &wasm.bytes, 0o755),
        ("/bin/paths", &native, 0o755),
        ("/real/file", b"real\n", 0o644),
        ("/real/deep/file", b"deep\n", 0o644),
        ("/app/own", b"own\n", 0o644),
        ("/app/data/x", b"data\n", 0o644),
        ("/top.toml", b"top\n", 0o644),
        ("/empty/.keep", b"", 0o644),
        ("/app/folder/file", b"in app\n", 0o644),
        ("/run/.keep", b"", 0o644),
        ("/var/.keep", b"", 0o644),
    ]);
    let links = links(&[
        ("/absolute", "/real/file"),
        ("/absolute-folder", "/real"),
        ("/relative", "real/file"),
        ("/up", "../../../real/file"),
        ("/chain", "absolute-folder/back"),
        ("/real/back", "../app/out"),
        ("/app/out", "../real/deep/file"),
        ("/app/absolute", "/real/file"),
        ("/app/folder/far", "../../real"),
        ("/loop", "loop"),
        ("/dangling", "/real/new"),
        ("/app/dangling", "../real/newer"),
        ("/nowhere", "/missing/file"),
        ("/var/run", "/run"),
        ("/var/up", "../../../../../app"),
    ]);
    image::import(namespace, name, |image| image.os("linux").layer(layer).layer(links)).name
}

/// Runs the calls as wasm, with this shim, and as a native program, with runc, each in a container of its own. Both must print the same.
async fn same(namespace: &Namespace, image: &str, cwd: &str, calls: &[&str]) {
    let run = async |program: &str, runtime: &str| {
        let args = [&[program], calls].concat();
        let container = namespace.container(image).runtime(runtime);
        let exited = container.change(json!({ "process": { "args": args, "cwd": cwd } })).run().await;
        assert_eq!((exited.code, &*exited.stderr), (0, ""), "{program} in {cwd}");
        exited.stdout
    };
    let (native, wasm) = (run("/bin/paths", RUNC).await, run("/bin/paths.wasm", &namespace.runtime()).await);
    let different = native.lines().zip(wasm.lines()).filter(|(native, wasm)| native != wasm);
    let different: Vec<String> = different.map(|(native, wasm)| format!("native {native}; wasm {wasm}")).collect();
    assert!(different.is_empty(), "{} in {cwd}: {different:#?}", namespace.engine());
    assert_eq!(native.lines().count(), wasm.lines().count());
}

const LOOKS: [&str; 30] = [
    "read:/absolute",
    "read:/relative",
    "read:/chain",
    "read:/absolute-folder/file",
    "read:/absolute-folder/deep/../file",
    "read:/absolute-folder/../app/own",
    "read:/app/out",
    "read:/app/absolute",
    "read:/app/folder/far/file",
    "read:/loop",
    "read:/dangling",
    "read:/nowhere",
    "read:/real/file/x",
    "stat:/absolute",
    "stat:/absolute-folder",
    "stat:/dangling",
    "stat:/app/folder/far/deep",
    "lstat:/absolute",
    "lstat:/app/folder/far",
    "lstat:/absolute-folder/back",
    "lstat:/absolute-folder/deep",
    "list:/absolute-folder",
    "list:/app/folder/far/deep",
    "readlink:/absolute",
    "readlink:/absolute-folder/back",
    "readlink:/app/folder/far/back",
    "readlink:/absolute-folder/file",
    "nofollow:/absolute-folder/file",
    "below:/app:absolute",
    "below:/app/folder:far/file",
];

/// More of them than there are folders.
const CLIMBS: [&str; 6] =
    ["read:/up", "read:/var/up/own", "read:/var/up/absolute", "stat:/var/up", "list:/var/up/folder", "lstat:/up"];

const CHANGES: [&str; 27] = [
    "mkdir:/dangling/",
    "rename:/absolute-folder/:/elsewhere",
    "list:/real",
    "write:/absolute:changed",
    "read:/real/file",
    "write:/dangling:made",
    "read:/real/new",
    "write:/app/dangling:made",
    "read:/real/newer",
    "new:/absolute-folder/newest:made",
    "new:/dangling:twice",
    "read:/real/newest",
    "mkdir:/absolute-folder/folder",
    "mkdir:/app/folder/far/other",
    "mkdir:/absolute",
    "new-below:/app:folder/far/below",
    "list:/real",
    "touch:/app/absolute",
    "touch:/nowhere",
    "rename:/absolute-folder/newest:/app/folder/far/deep/renamed",
    "read:/real/deep/renamed",
    "rename:/app/folder/far/deep/renamed:/absolute-folder/again",
    "link:/absolute-folder/again:/app/folder/far/second",
    "read:/real/second",
    "symlink:/real/file:/absolute-folder/link",
    "readlink:/real/link",
    "read:/app/folder/far/link",
];

const REMOVALS: [&str; 11] = [
    "rmdir:/absolute-folder/",
    "unlink:/absolute-folder/",
    "list:/real",
    "unlink:/absolute-folder/file",
    "unlink:/app/folder/far/back",
    "unlink:/absolute",
    "new:/app/folder/far/file:again",
    "rmdir:/absolute-folder/deep",
    "unlink:/absolute-folder/deep/file",
    "rmdir:/absolute-folder/deep",
    "list:/real",
];

/// The changes that start below a folder: a name right in `/` may as well be one in the working directory.
fn below_folders() -> Vec<&'static str> {
    let path = |call: &str| call.split(':').nth(1).unwrap_or_default().trim_matches('/').to_owned();
    CHANGES.into_iter().filter(|call| path(call).contains('/')).collect()
}

/// Through links a program reads, lists and examines the same files as a native program under runc. Missing files are missing in the same
/// way.
async fn paths_lead_where_native_ones_do(namespace: Namespace) {
    let image = image(&namespace, PATHS);
    same(&namespace, &image, "/", &LOOKS).await;
}

/// So do links with more `..` than there are folders above them.
async fn paths_that_climb_lead_where_native_ones_do(namespace: Namespace) {
    let image = image(&namespace, PATHS);
    same(&namespace, &image, "/", &CLIMBS).await;
}

/// Writes, new files, renames and links through links affect the same files as those of a native program.
async fn paths_change_what_native_ones_do(namespace: Namespace) {
    let image = image(&namespace, PATHS);
    same(&namespace, &image, "/", &CHANGES).await;
}

/// Removals through links remove the same files as a native program does.
async fn paths_remove_what_native_ones_do(namespace: Namespace) {
    let image = image(&namespace, PATHS);
    same(&namespace, &image, "/", &REMOVALS).await;
}

/// All of it is so in another working directory, with absolute and relative paths.
async fn paths_from_another_folder_do_as_native_ones(namespace: Namespace) {
    let image = image(&namespace, PATHS);
    for calls in [&LOOKS[..], &CLIMBS, &below_folders(), &REMOVALS] {
        same(&namespace, &image, "/empty", calls).await;
    }
    let relative = ["read:own", "read:out", "read:../real/file", "read:folder/far/file", "list:folder", "lstat:out"];
    same(&namespace, &image, "/app", &relative).await;
}

/// All of it is so for components.
async fn paths_of_components_do_as_native_ones(namespace: Namespace) {
    let image = image(&namespace, PATHS_COMPONENT);
    for (cwd, changes) in [("/", CHANGES.to_vec()), ("/empty", below_folders())] {
        for calls in [&LOOKS[..], &CLIMBS, &changes, &REMOVALS] {
            same(&namespace, &image, cwd, calls).await;
        }
    }
}

/// In an image that works in `/app`, relative paths start there and absolute ones in `/`, as natively, for modules and components. This
/// holds for existing files, new files, and files right in `/`. The program knows its working directory.
async fn working_directory_and_root_are_told_apart(namespace: Namespace) {
    for guest in [PATHS, PATHS_COMPONENT] {
        if guest == PATHS_COMPONENT && namespace.engine() != "wasmtime" {
            continue;
        }
        let image = image(&namespace, guest);
        let calls = [
            "read:data/x",
            "read:./data/x",
            "read:/top.toml",
            "read:/real/file",
            "read:own",
            "read:/app/own",
            "read:missing",
            "read:/missing",
            "list:.",
            "stat:data",
            "write:made:text",
            "read:/app/made",
            "write:/real/made:text",
            "write:data/made:text",
            "read:/app/data/made",
            "mkdir:new",
            "stat:/app/new",
            "mkdir:/real/new-folder",
            "rename:made:data/moved",
            "read:/app/data/moved",
            "rename:data/moved:/real/moved",
            "read:/real/moved",
            "unlink:data/made",
            "unlink:/top.toml",
            "read:/top.toml",
        ];
        same(&namespace, &image, "/app", &calls).await;
        let args = ["/bin/paths.wasm", "env:PWD"];
        let container = namespace.container(&image).change(json!({ "process": { "args": args, "cwd": "/app" } }));
        assert_eq!(container.run().await.stdout, "env:PWD = /app\n", "{guest}");
        let container = namespace.container(&image).env("PWD=/own").change(json!({ "process": { "args": args } }));
        assert_eq!(container.run().await.stdout, "env:PWD = /own\n", "{guest}");
    }
}

/// A library that asks the first folder for a path as it is, as AssemblyScript's and Zig's do, finds relative and absolute paths. So does
/// one that goes by `PWD`, as Go's does. Both are told apart although the working directory and `/` have the same names.
async fn libraries_with_ways_of_their_own_find_their_files(namespace: Namespace) {
    let image = image(&namespace, PATHS);
    let calls =
        ["own", "data/x", "/top.toml", "/real/file", "/app/own", "absolute", "/absolute", "../top.toml", "missing"];
    let calls: Vec<String> =
        ["first", "pwd"].iter().flat_map(|way| calls.map(|path| format!("{way}:{path}"))).collect();
    same(&namespace, &image, "/app", &calls.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

/// The calls of programs of other compilers in `/app`.
const COMPILED: [&str; 22] = [
    "read:data/x",
    "read:./data/x",
    "read:/top.toml",
    "read:own",
    "read:/app/own",
    "read:../top.toml",
    "read:missing",
    "read:/missing",
    "read:/absolute-folder/file",
    "read:absolute",
    "read:/absolute",
    "write:made:text",
    "read:/app/made",
    "write:/real/made:text",
    "read:/real/made",
    "write:data/made:text",
    "read:/app/data/made",
    "mkdir:folder-here",
    "write:/app/folder-here/file:text",
    "unlink:data/made",
    "read:/app/data/made",
    "unlink:/top.toml",
];

/// Runs a compiler's program in a container that works in `/app`, and compares its output with that of a native program under runc. The
/// comparison ignores the kind of error, because libraries name errors in ways of their own. `differs` names calls with another answer, and
/// that answer.
async fn compiled(namespace: &Namespace, part: &str, more: &[&str], differs: &[(&str, &str)]) {
    let program = Program::file(namespace, &home::part(part));
    let image = image_of(namespace, "compiled", &program);
    let calls: Vec<&str> = COMPILED.iter().chain(more).copied().collect();
    let run = async |program: &str, runtime: &str| {
        let args = [&[program], &calls[..]].concat();
        let container = namespace.container(&image).runtime(runtime);
        let exited = container.change(json!({ "process": { "args": args, "cwd": "/app" } })).run().await;
        assert_eq!((exited.code, &*exited.stderr), (0, ""), "{program} {part}");
        exited.stdout
    };
    let (native, wasm) = (run("/bin/paths", RUNC).await, run("/bin/paths.wasm", &namespace.runtime()).await);
    let expected = native.lines().map(|line| {
        let (call, said) = line.split_once(" = ").expect("each call says what came of it");
        let failed = said.len() > 1 && said.chars().all(|letter| letter.is_ascii_uppercase());
        let said = if failed { "failed" } else { said };
        let other = differs.iter().find(|(name, _)| *name == call).map(|(_, said)| *said);
        assert_ne!(other, Some(said), "{call} is as natively");
        format!("{call} = {}", other.unwrap_or(said))
    });
    assert_eq!(wasm.lines().collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{part}");
    // Libraries ask for more than they need to read a file.
    let args = ["/bin/paths.wasm", "read:data/x", "read:/top.toml", "write:made:text", "write:own:text", "read:own"];
    let container = namespace.container(&image).options("preopens = \"read-only\"");
    let exited = container.change(json!({ "process": { "args": args, "cwd": "/app" } })).run().await;
    let said: Vec<&str> = exited.stdout.lines().filter_map(|line| Some(line.split_once(" = ")?.1)).collect();
    assert_eq!(said, ["data", "top", "failed", "failed", "own"], "{part}: {}", exited.stderr);
}

/// A program compiled by Go finds, makes and removes the same files as a native one, by relative and absolute paths. It knows its working
/// directory.
async fn programs_of_compilers_go(namespace: Namespace) {
    compiled(&namespace, "paths-go.wasm", &["stat:data", "list:.", "list:/real", "cwd:"], &[]).await;
}

/// The same holds for a program of Zig without a C library. But its library does not follow a link at the end of a path that it opens.
async fn programs_of_compilers_zig(namespace: Namespace) {
    let differs = [("read:absolute", "failed"), ("read:/absolute", "failed")];
    compiled(&namespace, "paths-zig.wasm", &["stat:data"], &differs).await;
}

/// So does one of Zig with a C library.
async fn programs_of_compilers_zig_with_libc(namespace: Namespace) {
    compiled(&namespace, "paths-zig-libc.wasm", &["stat:data"], &[]).await;
}

/// So does one of AssemblyScript.
async fn programs_of_compilers_assemblyscript(namespace: Namespace) {
    compiled(&namespace, "paths-assemblyscript.wasm", &[], &[]).await;
}

/// A path is refused if the program's library does not say whether it is relative, and both the working directory and `/` have it. The
/// message names both files in one line; nothing is opened or changed.
async fn path_that_may_be_either_is_refused(namespace: Namespace) {
    let wasm = Program::guest(&namespace, PATHS);
    let image = image::import(&namespace, "either", |image| {
        image.os("linux").layer(files(&[
            ("/bin/paths.wasm", &wasm.bytes, 0o755),
            ("/data/x", b"root\n", 0o644),
            ("/app/data/x", b"app\n", 0o644),
            ("/log", b"root\n", 0o644),
        ]))
    });
    let args = [
        "/bin/paths.wasm",
        "read:data/x",
        "read:/data/x",
        "write:data/x:changed",
        "write:log:changed",
        "unlink:data/x",
        "read:/app/data/x",
        "read:../data/x",
    ];
    let container = namespace.container(&image.name).change(json!({ "process": { "args": args, "cwd": "/app" } }));
    let exited = container.run().await;
    let said: Vec<&str> = exited.stdout.lines().filter_map(|line| Some(line.split_once(" = ")?.1)).collect();
    assert_eq!(said, [&["ENOTCAPABLE"; 5][..], &["app", "root"]].concat(), "{}", exited.stderr);
    for part in ["\"data/x\"", "\"/app/data/x\"", "\"/log\"", "working directory"] {
        assert!(exited.stderr.contains(part), "{part}: {}", exited.stderr);
    }
    assert_eq!(exited.stderr.lines().count(), 2, "each path is told of once: {}", exited.stderr);
}

/// The token of a service account, mounted at `/var/run/secrets/…`, is read as natively, where `/var/run` is a link to `/run`. The token
/// itself is a link within its volume, as kubelet makes it.
async fn service_account_behind_a_link_is_read(namespace: Namespace) {
    let image = image(&namespace, PATHS);
    let volume = namespace.folder().join("token");
    fs::create_dir_all(volume.join("..2026")).expect("the folder is ours");
    fs::write(volume.join("..2026/token"), "secret\n").expect("the folder is ours");
    std::os::unix::fs::symlink("..2026", volume.join("..data")).expect("the folder is ours");
    std::os::unix::fs::symlink("..data/token", volume.join("token")).expect("the folder is ours");
    let path = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mount = json!({ "destination": path, "type": "bind", "source": volume, "options": ["rbind", "ro"] });
    for (program, runtime) in [("/bin/paths", RUNC.to_owned()), ("/bin/paths.wasm", namespace.runtime())] {
        for cwd in ["/", "/app"] {
            let args = [program, &format!("read:{path}/token"), &format!("list:{path}")];
            let container = namespace.container(&image).runtime(&runtime).mount(mount.clone());
            let exited = container.change(json!({ "process": { "args": args, "cwd": cwd } })).run().await;
            let expected = format!("read:{path}/token = secret\nlist:{path} = ..2026 ..data token\n");
            assert_eq!((exited.code, &*exited.stderr, &*exited.stdout), (0, "", &*expected), "{program} in {cwd}");
        }
    }
}

/// `..`, and links with any number of it, end at the container's root; the process's own links in `/proc` are not passed.
async fn paths_never_lead_out_of_the_container(namespace: Namespace) {
    let secret = namespace.folder().join("secret");
    fs::write(&secret, "secret\n").expect("the folder is ours");
    let wasm = Program::guest(&namespace, PATHS);
    let up = format!("{}{}", "../".repeat(20), secret.display().to_string().trim_start_matches('/'));
    let (secret, magic) = (secret.display().to_string(), format!("/proc/self/root{}", secret.display()));
    let links = links(&[("/a/up", &up), ("/a/absolute", &secret), ("/a/magic", &magic), ("/a/exe", "/proc/self/exe")]);
    let image = image::import(&namespace, "out", |image| {
        image.os("linux").layer(files(&[("/bin/paths.wasm", &wasm.bytes, 0o755)])).layer(links)
    });
    let reads =
        ["/a/up", "/a/absolute", "/a/magic", "/a/exe", &format!("/{up}"), &secret].map(|path| format!("read:{path}"));
    for cwd in ["/", "/a"] {
        let args: Vec<&str> = ["/bin/paths.wasm"].into_iter().chain(reads.iter().map(String::as_str)).collect();
        let container = namespace.container(&image.name);
        let exited = container.change(json!({ "process": { "args": args, "cwd": cwd } })).run().await;
        assert_eq!((exited.code, &*exited.stderr), (0, ""));
        for line in exited.stdout.lines() {
            let (_, said) = line.split_once(" = ").expect("each call says what came of it");
            assert!(said.starts_with('E'), "{cwd}: {line}");
        }
    }
}

/// With read-only folders nothing is changed behind a link either, and all is read.
async fn read_only_folders_stay_so_behind_links(namespace: Namespace) {
    let image = image(&namespace, PATHS);
    let args = [
        "/bin/paths.wasm",
        "read:/absolute",
        "write:/absolute:x",
        "write:/dangling:x",
        "mkdir:/absolute-folder/x",
        "unlink:/absolute-folder/file",
        "rename:/absolute-folder/file:/app/x",
        "touch:/absolute",
        "read:/absolute",
    ];
    let container = namespace.container(&image).options("preopens = \"read-only\"");
    let exited = container.change(json!({ "process": { "args": args } })).run().await;
    assert_eq!((exited.code, &*exited.stderr), (0, ""));
    let said: Vec<&str> = exited.stdout.lines().filter_map(|line| Some(line.split_once(" = ")?.1)).collect();
    assert_eq!((said[0], said[7]), ("real", "real"), "{said:?}");
    assert!(said[1..7].iter().all(|said| said.starts_with('E')), "{said:?}");
}
