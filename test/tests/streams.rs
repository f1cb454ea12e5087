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
        case!(output_goes_nowhere, needs Busybox),
        case!(logging_program_takes_both_outputs),
        case!(logging_program_takes_a_terminal, needs Busybox),
        case!(logging_program_survives_containerd),
        case!(logging_program_that_is_not_ready_fails_the_creation),
        case!(unknown_streams_are_refused),
    ]
}

const LIMIT: Duration = Duration::from_secs(20);

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

/// A logging program goes on when containerd is killed, and takes what comes after its return.
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

/// Other kinds of streams are refused by name.
async fn unknown_streams_are_refused(namespace: Namespace) {
    let image = demo(&namespace);
    let created = namespace.container(&image.name).output("npipe:///x").try_create().await;
    let status = created.err().expect("there are no such streams");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("npipe:///x"), "{status}");
}
