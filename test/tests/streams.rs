//! Where the output of containers can go: files, logging programs, nowhere.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Imported, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, eventually};
use rustix::process::Signal;
use tonic::Code;

use crate::busybox;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(output_goes_to_a_file),
        case!(path_of_a_file_is_appended_to, needs Busybox Runc),
        case!(escapes_of_a_uri_are_resolved, needs Busybox Runc),
        case!(terminal_is_appended_to_a_file, needs Busybox),
        case!(input_comes_from_a_file, needs Busybox Runc),
        case!(output_that_cannot_be_opened_says_why, needs Busybox Runc),
        case!(output_goes_nowhere, needs Busybox),
        case!(logging_program_takes_both_outputs),
        case!(logging_program_takes_a_terminal, needs Busybox),
        case!(logging_program_survives_containerd),
        case!(logging_program_that_is_not_ready_fails_the_creation),
        case!(logging_program_of_version_2_says_that_it_is_ready),
        case!(unknown_streams_are_refused),
    ]
}

const LIMIT: Duration = Duration::from_secs(20);
const RUNC: &str = "io.containerd.runc.v2";

fn demo(namespace: &Namespace) -> Imported {
    let program = Program::guest(namespace, DEMO);
    image::import(namespace, "demo", |image| image.layer(program.layer("demo.wasm")))
}

/// `file://` appends both outputs to a file, which is made with its folder.
async fn output_goes_to_a_file(namespace: Namespace) {
    let image = demo(&namespace);
    let file = namespace.folder().join("new/folder/log");
    let uri = format!("file://{}", file.display());
    let run = async |args: &[&str]| namespace.container(&image.name).args(args).output(&uri).run().await;
    assert_eq!(run(&["echo", "one"]).await.code, 0);
    assert_eq!(run(&["stderr", "two"]).await.code, 0);
    assert_eq!(fs::read_to_string(&file).expect("the file is there"), "one\ntwo\n");
}

/// Runs a program that prints a line on either output, with each runtime. This shim runs wasm and a native program, and runc's shim the
/// same native program.
async fn on_each(namespace: &Namespace, output: impl Fn(&str) -> String) {
    let (wasm, native) = (demo(namespace), busybox::image(namespace));
    let module = |args: &[&str]| namespace.container(&wasm.name).args(args);
    assert_eq!(module(&["echo", "out"]).output(&output("wasm")).run().await.code, 0);
    assert_eq!(module(&["stderr", "err"]).output(&output("wasm")).run().await.code, 0);
    for (name, runtime) in [("native", namespace.runtime()), ("runc", RUNC.to_owned())] {
        let program = namespace.container(&native.name).runtime(&runtime).args(&["sh", "-c", "echo out; echo err >&2"]);
        assert_eq!(program.output(&output(name)).run().await.code, 0, "{name}");
    }
}

/// Asserts the contents of the file: both lines behind `before`. runc's shim copies each output by itself. It may do so after it reports
/// the end, and over the other line, which is as long. There only the beginning, and that a line follows, is certain.
async fn assert_written(name: &str, path: &Path, before: &str) {
    let text = || fs::read_to_string(path).expect("it is there");
    if name != "runc" {
        assert_eq!(text(), format!("{before}out\nerr\n"), "{name}");
        return;
    }
    eventually("a line of runc's", LIMIT, async || {
        let text = text();
        let lines = text.strip_prefix(before).ok_or_else(|| text.clone())?;
        if ["out\n", "err\n"].iter().any(|line| lines.starts_with(line)) { Ok(()) } else { Err(text) }
    })
    .await;
}

/// A plain path that is a regular file is appended to, by both outputs, as by runc's shim; so is a device.
async fn path_of_a_file_is_appended_to(namespace: Namespace) {
    let path = |name: &str| namespace.folder().join(format!("log of {name} %41"));
    for name in ["wasm", "native", "runc"] {
        fs::write(path(name), "before\n").expect("the folder is ours");
    }
    on_each(&namespace, |name| path(name).display().to_string()).await;
    for name in ["wasm", "native", "runc"] {
        assert_written(name, &path(name), "before\n").await;
    }
    on_each(&namespace, |_| "/dev/null".to_owned()).await;
}

/// The path of a `file://` URI is written with escapes, and ends before a query, as for runc's shim.
async fn escapes_of_a_uri_are_resolved(namespace: Namespace) {
    let folder = namespace.folder().join("a folder/100%");
    let uri = |name: &str| {
        let folder = folder.display().to_string().replace('%', "%25").replace(' ', "%20");
        format!("file://{folder}/{name}%3Flog?size=1")
    };
    on_each(&namespace, uri).await;
    for name in ["wasm", "native", "runc"] {
        assert_written(name, &folder.join(format!("{name}?log")), "").await;
    }
    let modes = ["", "wasm?log"].map(|name| fs::metadata(folder.join(name)).expect("it is there").permissions().mode());
    let of_runc = fs::metadata(folder.join("runc?log")).expect("it is there").permissions().mode();
    assert_eq!((modes[0] & 0o777, modes[1]), (0o755, of_runc));
}

/// Output on a terminal is appended, too.
async fn terminal_is_appended_to_a_file(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let file = namespace.folder().join("typed");
    fs::write(&file, "before\n").expect("the folder is ours");
    let container = namespace.container(&image.name).args(&["echo", "typed"]).terminal();
    assert_eq!(container.output(&file.display().to_string()).run().await.code, 0);
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "before\ntyped\r\n");
    let folder = namespace.folder().display().to_string();
    let created =
        namespace.container(&image.name).args(&["echo", "typed"]).terminal().output(&folder).try_create().await;
    let status = created.err().expect("a folder is no file");
    assert!(status.message().contains(&format!("cannot open {folder}: Is a directory (os error 21)")), "{status}");
}

/// A plain path that is a regular file is read to its end, as by runc's shim, also where a terminal reads it.
async fn input_comes_from_a_file(namespace: Namespace) {
    let (wasm, native) = (demo(&namespace), busybox::image(&namespace));
    let file = namespace.folder().join("input");
    fs::write(&file, "one\ntwo\n").expect("the folder is ours");
    let input = file.display().to_string();
    let exited = namespace.container(&wasm.name).args(&["cat"]).input(&input).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "one\ntwo\n"));
    for runtime in [namespace.runtime(), RUNC.to_owned()] {
        let program = namespace.container(&native.name).runtime(&runtime).args(&["cat"]).input(&input);
        let exited = program.run().await;
        assert_eq!((exited.code, &*exited.stdout), (0, "one\ntwo\n"), "{runtime}");
    }
    let terminal = namespace.container(&native.name).args(&["cat"]).terminal().input(&input).run().await;
    assert_eq!(terminal.code, 0);
    assert!(terminal.stdout.ends_with("one\r\ntwo\r\n"), "{:?}", terminal.stdout);
}

/// A file that cannot be opened is an error with its path and the system's reason. Nothing is made in its place. runc's shim refuses the
/// same paths.
async fn output_that_cannot_be_opened_says_why(namespace: Namespace) {
    let (wasm, native) = (demo(&namespace), busybox::image(&namespace));
    let folder = namespace.folder().join("folder");
    fs::create_dir(&folder).expect("the folder is ours");
    fs::write(folder.join("file"), "").expect("the folder is ours");
    let socket = folder.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("the place is free");
    let path = |name: &str| folder.join(name).display().to_string();
    for (output, reason) in [
        (path("missing"), "No such file or directory (os error 2)"),
        (path("no/parent"), "No such file or directory (os error 2)"),
        (path(""), "Is a directory (os error 21)"),
        (path("file/log"), "Not a directory (os error 20)"),
        (path("socket"), "No such device or address (os error 6)"),
        ("/proc/sys/kernel/ostype".to_owned(), "Permission denied (os error 13)"),
        (format!("file://{}", path("")), "Is a directory (os error 21)"),
        (format!("file://{}", path("file/log")), "File exists (os error 17)"),
        ("file:///proc/none/log".to_owned(), "No such file or directory (os error 2)"),
    ] {
        let created = namespace.container(&wasm.name).output(&output).try_create().await;
        let status = created.err().unwrap_or_else(|| panic!("{output} can be opened"));
        let path = output.strip_prefix("file://").unwrap_or(&output);
        assert!(status.message().contains(&format!("cannot open {path}: {reason}")), "{output}: {status}");
        let created = namespace.container(&native.name).runtime(RUNC).output(&output).try_create().await;
        assert!(created.is_err(), "runc's shim opens {output}");
    }
    let mut left: Vec<_> =
        fs::read_dir(&folder).expect("it is there").map(|entry| entry.expect("it is there").file_name()).collect();
    left.sort();
    assert_eq!(left, ["file", "socket"]);
}

/// Without streams a container runs all the same, and may write.
async fn output_goes_nowhere(namespace: Namespace) {
    let image = demo(&namespace);
    assert_eq!(namespace.container(&image.name).args(&["echo", "nobody"]).output("").run().await.code, 0);
    let image = busybox::image(&namespace);
    assert_eq!(namespace.container(&image.name).args(&["echo", "nobody"]).output("").run().await.code, 0);
}

/// A program that logs: writes its arguments and environment, then all that comes, to files in `folder`.
fn logger(folder: &Path, ready: &str) -> (String, PathBuf) {
    fs::create_dir_all(folder).expect("the folder is ours");
    let (program, log) = (folder.join("logger"), folder.join("log"));
    let script = format!(
        "#!/bin/sh\nexec >{log} 2>&1\necho args \"$@\"\nenv | grep ^CONTAINER_ | sort\n\
         cat <&3 >{log}.out 5<&- & first=$!\ncat <&4 >{log}.err 5<&- & second=$!\nexec 3<&- 4<&-\n{ready}\nwait $first $second\necho over\n",
        log = log.display(),
    );
    fs::write(&program, script).expect("the folder is ours");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    (format!("binary://{}?id=a+b&flag", program.display()), log)
}

async fn over(log: &Path) -> String {
    eventually("the end of the logging program", LIMIT, async || {
        let text = fs::read_to_string(log).unwrap_or_default();
        if text.ends_with("over\n") { Ok(text) } else { Err(text) }
    })
    .await
}

fn read(log: &Path, end: &str) -> String {
    fs::read_to_string(format!("{}.{end}", log.display())).unwrap_or_default()
}

/// `binary://` starts a program with the query as its arguments, which takes output and errors and ends with them.
async fn logging_program_takes_both_outputs(namespace: Namespace) {
    let image = demo(&namespace);
    let (uri, log) = logger(&namespace.folder().join("logs"), "exec 5<&-");
    let mut container = namespace.container(&image.name).args(&["echo", "to out"]).output(&uri).create().await;
    let id = container.id().to_owned();
    container.start().await;
    assert_eq!(container.finish().await.code, 0);
    let text = over(&log).await;
    let environment = format!("CONTAINER_ID={id}\nCONTAINER_NAMESPACE={}\n", namespace.name());
    assert_eq!(text, format!("args id a b flag \n{environment}over\n"));
    assert_eq!((&*read(&log, "out"), &*read(&log, "err")), ("to out\n", ""));

    let (uri, log) = logger(&namespace.folder().join("more"), "echo ready >&5; exec 5<&-");
    assert_eq!(namespace.container(&image.name).args(&["stderr", "to err"]).output(&uri).run().await.code, 0);
    over(&log).await;
    assert_eq!((&*read(&log, "out"), &*read(&log, "err")), ("", "to err\n"));
}

/// A terminal can be logged too.
async fn logging_program_takes_a_terminal(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let (uri, log) = logger(&namespace.folder().join("logs"), "exec 5<&-");
    let container = namespace.container(&image.name).args(&["echo", "typed"]).terminal().output(&uri);
    assert_eq!(container.run().await.code, 0);
    over(&log).await;
    assert_eq!(read(&log, "out"), "typed\r\n");
}

/// A logging program goes on when containerd is killed, and takes the output after containerd's return.
async fn logging_program_survives_containerd(namespace: Namespace) {
    let namespace = crate::survival::own(&namespace).await;
    let image = demo(&namespace);
    let (uri, log) = logger(&namespace.folder().join("logs"), "exec 5<&-");
    let mut container = namespace.container(&image.name).output(&uri).create().await;
    container.start().await;
    let ticks = || read(&log, "out").lines().count();
    eventually("a tick", LIMIT, async || if ticks() > 0 { Ok(()) } else { Err("none".to_owned()) }).await;
    namespace.daemon().restart(Signal::KILL).await;
    let before = ticks();
    eventually("another tick", LIMIT, async || if ticks() > before { Ok(()) } else { Err(ticks().to_string()) }).await;
    container.wait_again();
    container.kill(Signal::TERM).await.expect("a running container can be killed");
    assert_eq!(container.wait().await, 143);
    container.delete().await;
    over(&log).await;
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// A logging program that cannot be started is an error that names it, and nothing is left.
async fn logging_program_that_is_not_ready_fails_the_creation(namespace: Namespace) {
    let image = demo(&namespace);
    let created = namespace.container(&image.name).output("binary:///no/such/logger").try_create().await;
    let status = created.err().expect("there is no such program");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("/no/such/logger"), "{status}");
}

/// `binary-v2://`: a logging program that reports with a byte that it is ready takes the outputs. One that closes its descriptor without is
/// not ready.
async fn logging_program_of_version_2_says_that_it_is_ready(namespace: Namespace) {
    let image = demo(&namespace);
    let strict = |uri: &str| uri.replace("binary://", "binary-v2://");
    let (uri, log) = logger(&namespace.folder().join("ready"), "echo ready >&5; exec 5<&-");
    let container = namespace.container(&image.name).args(&["echo", "to out"]).output(&strict(&uri));
    assert_eq!(container.run().await.code, 0);
    over(&log).await;
    assert_eq!((&*read(&log, "out"), &*read(&log, "err")), ("to out\n", ""));
    // A program that fails before it has begun does the same.
    let (uri, _) = logger(&namespace.folder().join("silent"), "exec 5<&-");
    for uri in [strict(&uri), "binary-v2:///bin/false".to_owned()] {
        let created = namespace.container(&image.name).output(&uri).try_create().await;
        let status = created.err().expect("it has said nothing");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("without writing a byte"), "{status}");
    }
    // The first version takes the one for the other.
    let container = namespace.container(&image.name).args(&["echo", "nobody"]).output("binary:///bin/true");
    container.create().await.try_delete().await;
}

/// Other kinds of streams are refused by name.
async fn unknown_streams_are_refused(namespace: Namespace) {
    let image = demo(&namespace);
    let created = namespace.container(&image.name).output("npipe:///x").try_create().await;
    let status = created.err().expect("there are no such streams");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("npipe:///x"), "{status}");
}
