//! The view of a wasm container's process from outside. It equals the view of a native program that runc has executed, or follows
//! `docs/parity.md`. A wasm program is never executed, so none of these attributes comes by itself.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case, eventually};
use serde_json::{Value, json};

use crate::busybox;
use crate::confinement::{OURS, RUNC, running, same, status, wasm};

mod labels;
mod program;

/// Maximum time until a program runs.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case!(lists_show_the_program, needs Runc Busybox),
        case!(created_processes_show_the_program, needs Busybox),
        case!(executed_processes_show_the_program),
        case!(attributes_are_those_of_a_native_program, needs Runc Busybox),
        case!(executed_processes_have_what_the_container_has, needs Runc Busybox),
        case!(ignored_signals_are_none_but_sigpipe, needs Runc Busybox),
        case!(processes_are_not_dumpable, needs Runc Busybox),
        case!(unknown_users_have_a_home, needs Runc Busybox),
        case!(unknown_formats_are_not_run, needs Runc Busybox),
        case!(session_keyring_is_of_the_container, needs Runc Busybox),
        case!(descriptors_are_the_programs_own),
    ];
    cases.extend(labels::cases());
    cases.extend(program::cases());
    cases
}

/// The facts that lists of processes show about one process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
}

/// Reads the facts that lists show about a process, except HOME: runc adds it for programs, and a wasm program gets the spec's variables.
pub(crate) fn shown(pid: u32) -> Shown {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).expect("it runs");
    let list = |file: &str| read(file).split_terminator('\0').map(str::to_owned).collect::<Vec<_>>();
    let mut env: Vec<_> = list("environ").into_iter().filter(|variable| !variable.starts_with("HOME=")).collect();
    // libcontainer gives those of a native program in no order.
    env.sort_unstable();
    Shown { name: read("comm").trim_end().to_owned(), args: list("cmdline"), env }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

const ENV: [&str; 3] = ["A=1 2=3", "EMPTY=", "PATH=/bin"];

/// The environment of a guest, which is told its working directory as well.
fn told() -> Vec<String> {
    [strings(&ENV), strings(&["PWD=/"])].concat()
}

fn env() -> Value {
    json!({ "process": { "env": ENV } })
}

/// `ps` and `docker top` show name, arguments and environment of the program, of wasm as of native programs.
async fn lists_show_the_program(namespace: Namespace) {
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    for (image, runtime, name) in [(&native, RUNC, "busybox"), (&native, OURS, "busybox"), (&wasm, OURS, "demo.wasm")] {
        let builder = namespace.container(&image.name).runtime(runtime).args(&["sleep", "600"]);
        let mut container = builder.change(env()).create().await;
        container.start().await;
        let program = if name == "busybox" {
            busybox::replaces(container.pid()).await;
            "/bin/busybox"
        } else {
            container.prints("sleeping").await;
            "demo.wasm"
        };
        let args = strings(&[program, "sleep", "600"]);
        let env = if name == "busybox" { strings(&ENV) } else { told() };
        let expected = Shown { name: name.to_owned(), args, env };
        assert_eq!(shown(container.pid()), expected, "{name} with {runtime}");
        container.end().await;
    }
}

/// Before the start they show the arguments, and nothing of the daemon's.
async fn created_processes_show_the_program(namespace: Namespace) {
    for (image, args) in
        [(wasm(&namespace), ["demo.wasm", "sleep"]), (busybox::image(&namespace), ["/bin/busybox", "sleep"])]
    {
        let container = namespace.container(&image.name).args(&["sleep"]).create().await;
        assert_eq!(shown(container.pid()).args, args);
    }
}

/// So does a wasm process that is executed later, before and behind an argument that is empty.
async fn executed_processes_show_the_program(namespace: Namespace) {
    let container = running(&namespace, &wasm(&namespace), OURS, &json!({})).await;
    let args = ["/demo.wasm", "sleep", "600", "", "x"];
    let mut process = container.exec(&args).change(json!({ "env": ENV })).create().await;
    process.start().await;
    process.prints("sleeping").await;
    let expected = Shown { name: "demo.wasm".to_owned(), args: strings(&args), env: told() };
    assert_eq!(shown(process.pid()), expected);
    container.end().await;
}

const STATUS: [&str; 11] = [
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "NoNewPrivs",
    "Cpus_allowed",
    "Mems_allowed",
    "VmLck",
];
const FILES: [&str; 8] = [
    "limits",
    "oom_score_adj",
    "personality",
    "coredump_filter",
    "timerslack_ns",
    "loginuid",
    "sessionid",
    "attr/current",
];

/// Reads the attributes that must be equal.
fn attributes(container: &Container) -> BTreeMap<String, String> {
    let folder = PathBuf::from(format!("/proc/{}", container.pid()));
    let mut seen = status(container, &STATUS);
    for file in FILES {
        // Not every kernel has each of them.
        seen.insert(file.to_owned(), fs::read_to_string(folder.join(file)).unwrap_or_default());
    }
    for link in ["cwd", "root"] {
        let path = fs::read_link(folder.join(link)).expect("it runs");
        seen.insert(link.to_owned(), path.to_string_lossy().into_owned());
    }
    let stat = fs::read_to_string(folder.join("stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name in parentheses").1.split_whitespace().collect();
    let field = |number: usize| fields[number - 3].to_owned();
    let pid = container.pid().to_string();
    for (name, number) in [("group", 5), ("session", 6)] {
        seen.insert(name.to_owned(), (field(number) == pid).to_string());
    }
    for (name, number) in [("terminal", 7), ("nice", 19), ("exit signal", 38), ("priority", 40), ("policy", 41)] {
        seen.insert(name.to_owned(), field(number));
    }
    seen
}

/// Settings of a process in a spec that the tests of confinement do not cover.
fn particular() -> Value {
    json!({ "process": {
        "user": { "uid": 1000, "gid": 1001, "additionalGids": [7], "umask": 0o27 }, "oomScoreAdj": 321, "cwd": "/dev",
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 300, "hard": 400 }, { "type": "RLIMIT_STACK", "soft": 4 << 20, "hard": 8 << 20 }],
    }})
}

/// Limits, masks, groups, scheduling, labels and the like equal those of a native program, with settings in the spec and without.
async fn attributes_are_those_of_a_native_program(namespace: Namespace) {
    for change in [json!({}), particular()] {
        let seen = same(&namespace, change, attributes).await;
        assert_eq!((&*seen["group"], &*seen["session"], &*seen["exit signal"]), ("true", "true", "17"));
    }
}

/// A process that is executed without them has the container's limits, umask and OOM score.
async fn executed_processes_have_what_the_container_has(namespace: Namespace) {
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    let mut all = Vec::new();
    for (image, runtime) in [(&native, RUNC), (&native, OURS), (&wasm, OURS)] {
        let container = running(&namespace, image, runtime, &particular()).await;
        let args =
            if image.name == wasm.name { ["/demo.wasm", "sleep", "600"] } else { ["/bin/busybox", "sleep", "600"] };
        // As dockerd asks for one.
        let bare = json!({ "rlimits": null, "oomScoreAdj": null, "user": { "umask": null } });
        let mut process = container.exec(&args).change(bare).create().await;
        process.start().await;
        if image.name == wasm.name {
            process.prints("sleeping").await;
        } else {
            busybox::replaces(process.pid()).await;
        }
        all.push(attributes(&process));
        container.end().await;
    }
    assert_eq!(all[0]["oom_score_adj"], "321\n");
    // runc before 1.2 takes neither from the container.
    const NEWER: [&str; 2] = ["Umask", "limits"];
    let older = |seen: &BTreeMap<String, String>| {
        let kept = seen.iter().filter(|(name, _)| !NEWER.contains(&name.as_str()));
        kept.map(|(name, value)| (name.clone(), value.clone())).collect::<BTreeMap<_, _>>()
    };
    for (seen, what) in all[1..].iter().zip(["native", "wasm"]) {
        assert_eq!(older(seen), older(&all[0]), "{what}");
        assert_eq!(seen["Umask"], "0027", "{what}");
        let files = seen["limits"].lines().find(|line| line.starts_with("Max open files")).expect("there is a limit");
        assert_eq!(files.split_whitespace().collect::<Vec<_>>()[3..5], ["300", "400"], "{what}");
    }
}

/// SIGPIPE is ignored, so that a guest sees an error of its write; nothing else is.
async fn ignored_signals_are_none_but_sigpipe(namespace: Namespace) {
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    for (image, runtime, ignored) in [(&native, RUNC, 0), (&native, OURS, 0), (&wasm, OURS, 1 << (13 - 1))] {
        let container = running(&namespace, image, runtime, &json!({})).await;
        // The shell that starts the program ignores SIGQUIT until then.
        eventually("the program's signals", LIMIT, async || {
            let seen = status(&container, &["SigIgn"])["SigIgn"].clone();
            if seen == format!("{ignored:016x}") { Ok(()) } else { Err(format!("{runtime}: {seen}")) }
        })
        .await;
        container.end().await;
    }
}

/// A native program of a user whom the image does not know has a home, as with runc.
async fn unknown_users_have_a_home(namespace: Namespace) {
    let image = busybox::image(&namespace);
    for runtime in [RUNC, OURS] {
        let user = json!({ "process": { "user": { "uid": 77, "gid": 77 } } });
        let args = ["/bin/busybox", "sh", "-c", "echo ${HOME-none}"];
        let exited = namespace.container(&image.name).runtime(runtime).args(&args).change(user).run().await;
        assert_eq!((exited.code, &*exited.stdout), (0, "/\n"), "{runtime}: {}", exited.stderr);
    }
}

/// An executable file of an unknown format is an error, and no script for the image's shell, as with runc.
async fn unknown_formats_are_not_run(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let file = namespace.folder().join("odd");
    fs::write(&file, "echo a shell has run it\n").expect("the folder is ours");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    let mount = json!({ "destination": "/odd", "type": "bind", "source": file, "options": ["rbind"] });
    let args = json!({ "process": { "args": ["/odd"] } });
    let exited = namespace.container(&image.name).runtime(OURS).change(args).mount(mount).run().await;
    assert_eq!((exited.code, &*exited.stdout), (126, ""), "{}", exited.stderr);
    assert!(exited.stderr.contains("\"/odd\"") && exited.stderr.contains("Exec format error"), "{}", exited.stderr);
}

/// Nobody in a container looks into a wasm process: its memory was never replaced. Native ones are as with runc.
async fn processes_are_not_dumpable(namespace: Namespace) {
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    let user = json!({ "process": { "user": { "uid": 1000, "gid": 1000 } } });
    for (image, runtime, owner) in [(&native, RUNC, 1000), (&native, OURS, 1000), (&wasm, OURS, 0)] {
        let container = running(&namespace, image, runtime, &user).await;
        let metadata = fs::metadata(format!("/proc/{}/environ", container.pid())).expect("it runs");
        assert_eq!(metadata.uid(), owner, "{runtime}");
        container.end().await;
    }
}

/// The session keyring is one of the container's own, the same for processes that are executed later, and not the daemon's.
async fn session_keyring_is_of_the_container(namespace: Namespace) {
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    // A user sees the keys that the process has, and no others of root's.
    let change = json!({ "process": { "user": { "uid": 1000, "gid": 1000 } }, "linux": { "maskedPaths": [] } });
    for (image, runtime) in [(&native, RUNC), (&native, OURS), (&wasm, OURS)] {
        let container = running(&namespace, image, runtime, &change).await;
        let args: &[&str] = if image.name == wasm.name {
            &["/demo.wasm", "read", "/proc/keys"]
        } else {
            &["/bin/busybox", "cat", "/proc/keys"]
        };
        let mut seen = Vec::new();
        for _ in 0..2 {
            let exited = container.exec(args).run().await;
            assert_eq!(exited.code, 0, "{exited:?}");
            let keys = exited.stdout.lines().filter(|line| !line.contains(" _uid"));
            let keys = keys.map(|line| line.split_whitespace().collect::<Vec<_>>());
            seen.extend(keys.map(|words| (words[0].to_owned(), words[8].to_owned())));
        }
        let name = format!("_ses.{}:", container.id());
        assert_eq!(seen.iter().map(|(_, name)| name).collect::<Vec<_>>(), [&name, &name], "{runtime}");
        assert_eq!(seen[0].0, seen[1].0, "{runtime}");
        container.end().await;
    }
}

/// Besides its streams a wasm process has its native code, which cannot be written to, its folders, and the descriptors that it waits with.
async fn descriptors_are_the_programs_own(namespace: Namespace) {
    let container = running(&namespace, &wasm(&namespace), OURS, &json!({})).await;
    let folder = PathBuf::from(format!("/proc/{}", container.pid()));
    let own = fs::metadata(folder.join("root")).expect("it runs");
    for entry in fs::read_dir(folder.join("fd")).expect("it runs").flatten() {
        let (path, number) = (entry.path(), entry.file_name().to_string_lossy().parse::<u32>().expect("a number"));
        let metadata = fs::metadata(&path).expect("it is open");
        let kind = metadata.file_type();
        let target = fs::read_link(&path).expect("it is open");
        if number <= 2 {
            let is_stream = kind.is_fifo() || (kind.is_char_device() && target == Path::new("/dev/null"));
            assert!(is_stream, "{number} is {}", target.display());
        } else if kind.is_file() {
            let error = fs::File::options().append(true).open(&path).expect_err("it can be written to");
            assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{}", target.display());
        } else if kind.is_dir() {
            assert_eq!((metadata.dev(), metadata.ino()), (own.dev(), own.ino()), "{}", target.display());
        } else {
            let target = target.to_string_lossy().into_owned();
            assert!(target.starts_with("pipe:") || target.starts_with("anon_inode:"), "{number} is {target}");
        }
    }
    container.end().await;
}
