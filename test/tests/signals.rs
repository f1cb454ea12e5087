//! Signals end containers, at once and with the exit code of the signal.

use std::time::{Duration, Instant};

use prewasi_test::container::Builder;
use prewasi_test::guests::{DEMO, DEMO_COMPONENT};
use prewasi_test::image::{self, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case};
use rustix::process::Signal;
use tonic::Code;

use crate::running::ticking;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(sigterm_ends_a_module),
        case!(sigterm_ends_a_component),
        case!(sigkill_ends_a_module),
        case!(sigkill_ends_a_component),
        case!(busy_guest_is_ended_too),
        case!(signal_to_an_ended_container_is_not_found),
        case!(created_container_can_be_killed),
        case!(program_that_can_hear_ends_by_itself),
        case!(component_that_can_hear_ends_by_itself),
        case!(program_that_hears_and_goes_on_is_ended_after_its_grace),
        case!(second_signal_ends_a_program_that_goes_on),
        case!(program_that_is_never_started_is_not_waited_for),
        case!(signal_0_asks_whether_it_is_there),
        case!(all_processes_are_signalled),
        case!(signal_to_an_ended_process_names_it),
        case!(terminals_signals_are_heard),
        case!(stop_signal_of_the_image_is_heard),
        case!(stop_signal_of_the_container_counts_over_the_images),
        case!(stop_signal_ends_a_program_that_cannot_hear),
    ]
}

/// The longest that a signal may take, from sending it to the end of the task.
const LIMIT: Duration = Duration::from_secs(1);

/// Runs a guest that ticks for ever, sends it a signal, and asserts that it ends in time and with `code`.
async fn assert_ends(namespace: Namespace, guest: &str, signal: Signal, code: u32) {
    let program = Program::guest(&namespace, guest);
    let image = image::import(&namespace, "ticking", |image| image.layer(program.layer("demo.wasm")));
    let mut container = namespace.container(&image.name).create().await;
    container.start().await;
    container.prints("tick 1\n").await;
    let start = Instant::now();
    container.kill(signal).await.expect("a running container can be killed");
    assert_eq!(container.wait().await, code);
    let took = start.elapsed();
    assert!(took < LIMIT, "it took {took:?} to end");
    assert_eq!(container.delete().await.exit_status, code);
}

/// SIGTERM ends a module within a second, exit code 143.
async fn sigterm_ends_a_module(namespace: Namespace) {
    assert_ends(namespace, DEMO, Signal::TERM, 143).await;
}

/// SIGTERM ends a component within a second, exit code 143.
async fn sigterm_ends_a_component(namespace: Namespace) {
    assert_ends(namespace, DEMO_COMPONENT, Signal::TERM, 143).await;
}

/// SIGKILL ends a module within a second, exit code 137.
async fn sigkill_ends_a_module(namespace: Namespace) {
    assert_ends(namespace, DEMO, Signal::KILL, 137).await;
}

/// SIGKILL ends a component within a second, exit code 137.
async fn sigkill_ends_a_component(namespace: Namespace) {
    assert_ends(namespace, DEMO_COMPONENT, Signal::KILL, 137).await;
}

/// SIGTERM ends a guest that computes without ever calling the system.
async fn busy_guest_is_ended_too(namespace: Namespace) {
    let wasm = wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\08\00\00\00\05\00\00\00busy\n")
            (func (export "_start")
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)))
                (loop (br 0))))"#,
    );
    let program = Program::new(wasm.expect("the text is valid"));
    let image = image::import(&namespace, "busy", |image| image.layer(program.layer("busy.wasm")));
    let mut container = namespace.container(&image.name).create().await;
    container.start().await;
    container.prints("busy\n").await;
    let start = Instant::now();
    container.kill(Signal::TERM).await.expect("a running container can be killed");
    assert_eq!(container.wait().await, 143);
    assert!(start.elapsed() < LIMIT, "it took {:?} to end", start.elapsed());
    container.delete().await;
}

/// Kill answers `NotFound` once the container has ended, which is the one answer that CRI takes for success.
async fn signal_to_an_ended_container_is_not_found(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "ended", |image| image.layer(program.layer("demo.wasm")));
    let mut container = namespace.container(&image.name).args(&["exit", "3"]).create().await;
    container.start().await;
    assert_eq!(container.wait().await, 3);
    let status = container.kill(Signal::TERM).await.expect_err("there is nobody to be killed");
    assert_eq!(status.code(), Code::NotFound, "{status}");
    assert_eq!(container.delete().await.exit_status, 3);
}

/// A container that was created and never started can be killed and deleted.
async fn created_container_can_be_killed(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "created", |image| image.layer(program.layer("demo.wasm")));
    let container = namespace.container(&image.name).create().await;
    container.kill(Signal::KILL).await.expect("a created container can be killed");
    prewasi_test::eventually("the end of a created container", LIMIT, async || {
        let state = container.state().await.expect("the task is there");
        match state.status() {
            containerd_client::types::v1::Status::Stopped => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(container.delete().await.exit_status, 137);
}

/// Runs a guest that waits for the end of its input, which comes with SIGTERM, and asserts that it ends by itself.
async fn assert_hears(namespace: Namespace, guest: &str) {
    let program = Program::guest(&namespace, guest);
    let image = image::import(&namespace, "hearing", |image| image.layer(program.layer("demo.wasm")));
    // Without the wish it has no input, and ends at once.
    assert_eq!(namespace.container(&image.name).args(&["cat"]).run().await.code, 0);
    let builder = namespace.container(&image.name).args(&["cat"]).env("PREWASI_STOP=stdin");
    let mut container = builder.create().await;
    container.start().await;
    container.kill(Signal::TERM).await.expect("it waits");
    let exited = container.finish().await;
    assert_eq!((exited.code, &*exited.stderr), (0, ""));
}

/// A module that asks for it hears SIGTERM as the end of its input, and ends with its own exit code.
async fn program_that_can_hear_ends_by_itself(namespace: Namespace) {
    assert_hears(namespace, DEMO).await;
}

/// So does a component.
async fn component_that_can_hear_ends_by_itself(namespace: Namespace) {
    assert_hears(namespace, DEMO_COMPONENT).await;
}

/// A program that goes on all the same is ended when its time is over, exit code 143.
async fn program_that_hears_and_goes_on_is_ended_after_its_grace(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "deaf", |image| image.layer(program.layer("demo.wasm")));
    let builder = namespace.container(&image.name).env("PREWASI_STOP=stdin").env("PREWASI_STOP_GRACE=2");
    let mut container = builder.create().await;
    container.start().await;
    container.prints("tick 1\n").await;
    let start = Instant::now();
    container.kill(Signal::TERM).await.expect("it runs");
    assert_eq!(container.wait().await, 143);
    assert!(start.elapsed() > Duration::from_secs(1), "it had {:?}", start.elapsed());
    container.delete().await;
    // A wish that is not understood is an error that says so.
    let exited = namespace.container(&image.name).env("PREWASI_STOP=signal").run().await;
    assert_eq!(exited.code, 126);
    assert!(exited.stderr.contains("cannot use PREWASI_STOP=\"signal\""), "{}", exited.stderr);
}

/// A second SIGTERM does not wait.
async fn second_signal_ends_a_program_that_goes_on(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "deaf", |image| image.layer(program.layer("demo.wasm")));
    let builder = namespace.container(&image.name).env("PREWASI_STOP=stdin").env("PREWASI_STOP_GRACE=3600");
    let mut container = builder.create().await;
    container.start().await;
    container.prints("tick 1\n").await;
    container.kill(Signal::TERM).await.expect("it runs");
    container.prints("tick 3\n").await;
    container.kill(Signal::TERM).await.expect("it runs");
    assert_eq!(container.wait().await, 143);
    container.delete().await;
}

/// A program that could hear, but is not started, is ended soon, with any grace.
async fn program_that_is_never_started_is_not_waited_for(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "unborn", |image| image.layer(program.layer("demo.wasm")));
    let builder = namespace.container(&image.name).env("PREWASI_STOP=stdin").env("PREWASI_STOP_GRACE=3600");
    let container = builder.create().await;
    container.kill(Signal::TERM).await.expect("a created container can be killed");
    prewasi_test::eventually("the end of a created container", Duration::from_secs(10), async || {
        let state = container.state().await.expect("the task is there");
        if state.exit_status == 143 { Ok(()) } else { Err(format!("{state:?}")) }
    })
    .await;
    container.delete().await;
}

/// Signal 0 does nothing, and is refused once the container has ended; so is a number that is no signal.
async fn signal_0_asks_whether_it_is_there(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "asked", |image| image.layer(program.layer("demo.wasm")));
    let mut container = namespace.container(&image.name).create().await;
    container.start().await;
    container.prints("tick 1\n").await;
    container.kill_with(0, false).await.expect("it is there");
    let status = container.kill_with(65, false).await.expect_err("there is no such signal");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    // Killing twice is as good as once.
    container.kill(Signal::KILL).await.expect("it runs");
    let again = container.kill(Signal::KILL).await;
    assert!(again.is_ok() || again.is_err_and(|status| status.code() == Code::NotFound));
    assert_eq!(container.wait().await, 137);
    let status = container.kill_with(0, false).await.expect_err("it is not there");
    assert_eq!(status.code(), Code::NotFound, "{status}");
    container.delete().await;
}

/// With `all` every process of a container gets the signal, without it the first one alone.
async fn all_processes_are_signalled(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "all", |image| image.layer(program.layer("demo.wasm")));
    for all in [true, false] {
        let mut container = namespace.container(&image.name).env("PREWASI_STOP=stdin").create().await;
        container.start().await;
        container.prints("tick 1\n").await;
        let mut process =
            container.exec(&["demo.wasm", "sleep", "600"]).change(serde_json::json!({ "env": [] })).create().await;
        process.start().await;
        process.prints("sleeping 600\n").await;
        container.kill_with(Signal::TERM.as_raw().cast_unsigned(), all).await.expect("it runs");
        if !all {
            process.kill_with(0, false).await.expect("it has got no signal");
            process.kill(Signal::INT).await.expect("it runs");
        }
        assert_eq!(process.wait().await, if all { 143 } else { 130 });
        process.delete().await;
        container.kill(Signal::KILL).await.expect("it has been told to stop, and goes on");
        assert_eq!(container.wait().await, 137);
        container.delete().await;
    }
}

/// A signal for a process that has ended is refused with the name of the process.
async fn signal_to_an_ended_process_names_it(namespace: Namespace) {
    let container = ticking(&namespace, DEMO).await;
    let mut process = container.exec(&["demo.wasm", "exit", "5"]).create().await;
    process.start().await;
    assert_eq!(process.wait().await, 5);
    let status = process.kill(Signal::TERM).await.expect_err("there is nobody to be killed");
    assert_eq!(status.code(), Code::NotFound, "{status}");
    let (exec_id, id) = (process.exec_id().to_owned(), container.id());
    let expected = format!("cannot signal process {exec_id} of container {id}: it has ended");
    assert!(status.message().contains(&expected), "{status}");
    process.delete().await;
    container.end().await;
}

/// Runs a program that waits for the end of its input, which comes with the signal, and asserts that it ends by itself.
async fn assert_heard(mut container: Container, signal: i32) {
    container.start().await;
    let number = signal.cast_unsigned();
    container.kill_with(number, false).await.expect("it waits");
    let exited = container.finish().await;
    assert_eq!((exited.code, &*exited.stderr), (0, ""), "signal {signal}");
}

fn hearing(namespace: &Namespace, image: &str) -> Builder {
    namespace.container(image).args(&["cat"]).env("PREWASI_STOP=stdin")
}

/// SIGINT and SIGQUIT are heard as SIGTERM is; no other signal is. A program that goes on after its grace ends with the signal that it has
/// heard.
async fn terminals_signals_are_heard(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "hearing", |image| image.layer(program.layer("demo.wasm")));
    for signal in [Signal::INT, Signal::QUIT] {
        assert_heard(hearing(&namespace, &image.name).create().await, signal.as_raw()).await;
    }
    let mut container = hearing(&namespace, &image.name).create().await;
    container.start().await;
    container.kill(Signal::USR1).await.expect("it waits");
    assert_eq!(container.wait().await, 128 + 10);
    container.delete().await;
    let deaf = namespace.container(&image.name).env("PREWASI_STOP=stdin").env("PREWASI_STOP_GRACE=1");
    let mut container = deaf.create().await;
    container.start().await;
    container.prints("tick 1\n").await;
    container.kill(Signal::INT).await.expect("it runs");
    assert_eq!(container.wait().await, 130);
    container.delete().await;
}

/// The signal that an image's config names is heard, by name or number, also one that ends no process by itself.
async fn stop_signal_of_the_image_is_heard(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    for (name, stop, signal) in
        [("usr1", "SIGUSR1", 10), ("winch", "WINCH", 28), ("rtmin", "SIGRTMIN+3", 37), ("number", "12", 12)]
    {
        let image = image::import(&namespace, name, |image| image.layer(program.layer("demo.wasm")).stop_signal(stop));
        assert_heard(hearing(&namespace, &image.name).create().await, signal).await;
        assert_heard(hearing(&namespace, &image.name).create().await, Signal::TERM.as_raw()).await;
        // A process that is executed hears it, too.
        let mut container = namespace.container(&image.name).create().await;
        container.start().await;
        let environment = serde_json::json!({ "env": ["PREWASI_STOP=stdin"] });
        let process = container.exec(&["demo.wasm", "cat"]).change(environment).create().await;
        assert_heard(process, signal).await;
        container.end().await;
    }
}

/// A label of the container, as of `nerdctl run --stop-signal`, counts over the image. CRI's record of the container, with the pod's
/// `stopSignal`, counts over both.
async fn stop_signal_of_the_container_counts_over_the_images(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image =
        image::import(&namespace, "usr1", |image| image.layer(program.layer("demo.wasm")).stop_signal("SIGUSR1"));
    let labelled = || hearing(&namespace, &image.name).label("io.containerd.image.config.stop-signal", "SIGUSR2");
    assert_heard(labelled().create().await, Signal::USR2.as_raw()).await;
    let metadata = serde_json::json!({ "Version": "v1", "Metadata": { "ID": "a", "StopSignal": "SIGHUP" } });
    let of_pod = || labelled().extension("io.cri-containerd.container.metadata", &metadata);
    assert_heard(of_pod().create().await, Signal::HUP.as_raw()).await;
    for signal in [Signal::USR1, Signal::USR2] {
        let mut container = of_pod().create().await;
        container.start().await;
        container.kill(signal).await.expect("it waits");
        assert_eq!(container.wait().await, 128 + signal.as_raw().cast_unsigned());
        container.delete().await;
    }
}

/// A program that cannot hear is ended at once by the signal that stops its container, also by one that ends no process by itself. A
/// signal that cannot be had, or that nobody knows, is no stop signal, and no error.
async fn stop_signal_ends_a_program_that_cannot_hear(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    for (name, stop, signal, code) in [
        ("winch", "SIGWINCH", 28, 156),
        ("rtmin", "SIGRTMIN+3", 37, 165),
        ("kill", "SIGKILL", 9, 137),
        ("segv", "SIGSEGV", 15, 143),
        ("odd", "SIGODD", 15, 143),
    ] {
        let image = image::import(&namespace, name, |image| image.layer(program.layer("demo.wasm")).stop_signal(stop));
        let mut container = namespace.container(&image.name).create().await;
        container.start().await;
        container.prints("tick 1\n").await;
        let start = Instant::now();
        container.kill_with(signal, false).await.expect("it runs");
        assert_eq!(container.wait().await, code, "{stop}");
        assert!(start.elapsed() < LIMIT, "it took {:?} to end", start.elapsed());
        container.delete().await;
    }
}
