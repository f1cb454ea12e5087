//! Terminals, for containers and for processes in them, native and wasm.

use std::time::Duration;

use containerd_client::types::v1::Status;
use prewasi_test::guests::{DEMO, DEMO_COMPONENT};
use prewasi_test::image::{self, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, process};
use rustix::process::Signal;
use serde_json::json;
use tonic::Code;

use crate::busybox;
use crate::running::sleeping;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(native_container_has_a_terminal, needs Busybox),
        case!(module_has_a_terminal),
        case!(component_has_a_terminal),
        case!(process_has_a_terminal, needs Busybox),
        case!(wasm_process_has_a_terminal),
        case!(input_ends_on_a_terminal, needs Busybox),
        case!(terminal_is_resized, needs Busybox),
        case!(long_output_is_complete, needs Busybox),
        case!(nobody_takes_the_output, needs Busybox),
        case!(terminal_belongs_to_the_user, needs Busybox),
        case!(without_a_terminal_nothing_is_resized),
        case!(ctr_run_with_a_terminal),
    ]
}

const IS_TERMINAL: &str = "for fd in 0 1 2; do busybox test -t $fd || echo no $fd; done; busybox tty; echo done";

/// All three streams of a native container are its terminal, which turns line ends into two characters.
async fn native_container_has_a_terminal(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let container = namespace.container(&image.name).args(&["sh", "-c", IS_TERMINAL]).terminal().stdin();
    let exited = container.run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "/dev/pts/0\r\ndone\r\n"));
}

async fn assert_wasm(namespace: Namespace, guest: &str) {
    let program = Program::guest(&namespace, guest);
    let image = image::import(&namespace, "terminal", |image| image.layer(program.layer("demo.wasm")));
    let exited = namespace.container(&image.name).args(&["terminal"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "no no no\n"));
    let mut container = namespace.container(&image.name).args(&["terminal"]).terminal().stdin().create().await;
    assert!(container.state().await.expect("it is there").terminal);
    container.start().await;
    let exited = container.finish().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "yes yes yes\r\n"));
    // The terminal echoes the input, and the guest reads it.
    let mut container = namespace.container(&image.name).args(&["cat"]).terminal().stdin().create().await;
    container.start().await;
    container.write("typed\n");
    container.prints("typed\r\n").await;
    container.close_stdin().await.expect("the shim closes it");
    let exited = container.finish().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "typed\r\ntyped\r\n"));
}

/// A module sees that its streams are a terminal, and reads the input until its end.
async fn module_has_a_terminal(namespace: Namespace) {
    assert_wasm(namespace, DEMO).await;
}

/// A component sees that its streams are a terminal, and reads the input until its end.
async fn component_has_a_terminal(namespace: Namespace) {
    assert_wasm(namespace, DEMO_COMPONENT).await;
}

/// A process gets a terminal of its own in a container that has none, and may be typed to.
async fn process_has_a_terminal(namespace: Namespace) {
    let container = sleeping(&namespace).await;
    let exited = container.exec(&["/bin/busybox", "sh", "-c", IS_TERMINAL]).terminal().stdin().run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "/dev/pts/0\r\ndone\r\n"));
    let mut shell = container.exec(&["/bin/busybox", "sh"]).terminal().stdin().create().await;
    shell.start().await;
    shell.write("echo $((40 + 2))\n");
    shell.prints("42\r\n").await;
    shell.write("exit 3\n");
    assert_eq!(shell.finish().await.code, 3);
    container.end().await;
}

/// So does a wasm process.
async fn wasm_process_has_a_terminal(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "ticking", |image| image.layer(program.layer("demo.wasm")));
    let mut container = namespace.container(&image.name).create().await;
    container.start().await;
    let exited = container.exec(&["demo.wasm", "terminal"]).terminal().stdin().run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "yes yes yes\r\n"));
    container.end().await;
}

/// A reader of the terminal sees the end of the input, also in the middle of a line.
async fn input_ends_on_a_terminal(namespace: Namespace) {
    let container = sleeping(&namespace).await;
    for text in ["a line\n", "half a line"] {
        let mut process = container.exec(&["/bin/busybox", "wc", "-c"]).terminal().stdin().create().await;
        process.start().await;
        process.write(text);
        process.close_stdin().await.expect("the shim closes it");
        let exited = process.finish().await;
        assert_eq!(exited.code, 0);
        assert!(exited.stdout.ends_with(&format!("{}\r\n", text.len())), "{:?}", exited.stdout);
    }
    container.end().await;
}

/// The program sees the size that is set, also one that was set before the start.
async fn terminal_is_resized(namespace: Namespace) {
    let container = sleeping(&namespace).await;
    let script = "read line; busybox stty size";
    for before in [false, true] {
        let mut process = container.exec(&["/bin/busybox", "sh", "-c", script]).terminal().stdin().create().await;
        if before {
            process.resize(91, 37).await.expect("it will have a terminal");
        }
        process.start().await;
        if !before {
            process.resize(91, 37).await.expect("it has a terminal");
        }
        process.write("\n");
        assert_eq!(process.wait().await, 0);
        assert!(process.stdout().ends_with("37 91\r\n"), "{:?}", process.stdout());
        process.resize(80, 25).await.expect("what has ended needs no size");
        process.delete().await;
    }
    container.end().await;
}

/// All of a long output is there when the end is told, however much the fifo holds.
async fn long_output_is_complete(namespace: Namespace) {
    let container = sleeping(&namespace).await;
    let exited = container.exec(&["/bin/busybox", "seq", "60000"]).terminal().run().await;
    assert_eq!(exited.code, 0);
    let lines: Vec<&str> = exited.stdout.lines().collect();
    assert_eq!((lines.len(), lines.last().copied()), (60_000, Some("60000")));
    container.end().await;
}

/// A client that takes no output delays the end of the process, and of nothing else.
async fn nobody_takes_the_output(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let fifo = namespace.folder().join("untaken");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).expect("the folder is ours");
    let builder = namespace.container(&image.name).args(&["seq", "60000"]).terminal().output(&fifo.to_string_lossy());
    let mut container = builder.create().await;
    container.start().await;
    // Another container of the same shim kind lives its life meanwhile.
    assert_eq!(namespace.container(&image.name).args(&["true"]).run().await.code, 0);
    assert_eq!(container.state().await.expect("the shim answers").status(), Status::Running);
    container.kill(Signal::KILL).await.expect("it waits for its output to be taken");
    assert_eq!(container.wait().await, 137);
    container.delete().await;
}

/// A program that does not run as root may open its terminal again.
async fn terminal_belongs_to_the_user(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let script = "echo opened > /dev/pts/0 && busybox id -u";
    let container = namespace.container(&image.name).args(&["sh", "-c", script]).terminal();
    let user = json!({ "process": { "user": { "uid": 1000, "gid": 1000 }, "capabilities": {} } });
    let exited = container.change(user).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "opened\r\n1000\r\n"));
}

/// A process without a terminal cannot be resized, and says so.
async fn without_a_terminal_nothing_is_resized(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "plain", |image| image.layer(program.layer("demo.wasm")));
    let mut container = namespace.container(&image.name).create().await;
    container.start().await;
    let status = container.resize(80, 25).await.expect_err("it has no terminal");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    container.end().await;
}

/// `ctr run -t` works, under a terminal of its own.
async fn ctr_run_with_a_terminal(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "ctr", |image| image.layer(program.layer("demo.wasm")));
    let ctr = namespace.daemon().series().programs().join("ctr");
    let command = format!(
        "{} --address {} --namespace {} run --rm -t --runtime io.containerd.wasmtime.v1 {} ctr-terminal /demo.wasm terminal",
        ctr.display(),
        namespace.daemon().address().display(),
        namespace.name(),
        image.name
    );
    // `script` gives `ctr` a terminal, without which it refuses.
    let mut script = namespace.daemon().command("/usr/bin/script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    let output = process::run(&mut script, Duration::from_secs(60)).success();
    assert!(output.stdout.trim_end().ends_with("yes yes yes"), "{:?}", output.stdout);
}
