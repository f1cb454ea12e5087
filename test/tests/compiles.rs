//! Compiles: limits, confinement and waiting. A failure has a name, and affects no other process.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use prewasi_cache::{ContainerdStore, ContentStore as _};
use prewasi_engines::{Wasmtime, version_label};
use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, BIG_MODULE, Imported, Program};
use prewasi_test::trial::Case;
use prewasi_test::workers::{self, Worker};
use prewasi_test::{Containerd, Namespace, case, eventually, home, leaks};
use rustix::process::{Pid, Signal, kill_process};

use crate::running::ticking;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(waiter_says_what_it_waits_for_and_has_a_deadline),
        case!(layers_are_compiled_side_by_side_up_to_the_slots),
        case!(compile_that_takes_too_long_is_stopped, needs BigModule),
        case!(compile_that_uses_up_its_processor_time_is_stopped, needs BigModule),
        case!(compile_that_needs_too_much_memory_is_stopped, needs BigModule),
        case!(worker_is_confined_and_its_crash_is_named, needs BigModule),
        case!(daemon_is_as_small_after_a_compile_as_without),
    ]
}

const LIMIT: Duration = Duration::from_secs(60);

/// Makes a namespace on a containerd that this test alone uses, with these options of the node.
async fn node(namespace: &Namespace, options: &str) -> Namespace {
    let namespace = Namespace::create(Arc::new(Containerd::start(namespace.daemon().series()).await)).await;
    fs::write(namespace.daemon().options(), options).expect("the folder is ours");
    namespace
}

fn big(namespace: &Namespace) -> (Program, Imported) {
    let program = Program::file(namespace, &home::part(BIG_MODULE));
    let image = image::import(namespace, "big", |image| image.layer(program.layer("yosys.wasm")));
    (program, image)
}

fn numbered(namespace: &Namespace, number: usize) -> (Program, Imported) {
    let wasm = fs::read(prewasi_test::guests::path(DEMO)).expect("the guest is there");
    let program = Program::new(image::marked(&wasm, &format!("{} {number}", namespace.name())));
    let image = image::import(namespace, &format!("demo{number}"), |image| image.layer(program.layer("demo.wasm")));
    (program, image)
}

async fn finish(namespace: Namespace) {
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// A process waits while another one holds the lock, and names the reason; after the deadline it compiles without the lock.
async fn waiter_says_what_it_waits_for_and_has_a_deadline(namespace: Namespace) {
    let namespace = node(&namespace, "lock_deadline = \"1s\"\n").await;
    let (program, image) = numbered(&namespace, 0);
    let store = ContainerdStore::connect(&namespace.daemon().address(), namespace.name()).await;
    let store = store.expect("containerd is reachable");
    let name = format!("{}/wasmtime/{}", program.digest, version_label(&Wasmtime::new()));
    let lock = store.try_lock(&name).await.expect("containerd answers").expect("nobody else has it");
    let output = namespace.prewasi_with("precompile", &[&image.name], &[("PREWASI_LOG", "debug")]).success();
    let subject = format!("layer {} of image {}", program.digest, image.name);
    let said = |text: &str| output.stderr.lines().any(|line| line.contains(text) && line.contains(&subject));
    assert!(said("waiting for another process that compiles the same"), "{output}");
    assert!(said("compiling without the lock"), "{output}");
    assert!(output.elapsed >= Duration::from_secs(1), "{output}");
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
    lock.release().await;
    finish(namespace).await;
}

/// As many layers are compiled at the same time as there are slots, and never more.
async fn layers_are_compiled_side_by_side_up_to_the_slots(namespace: Namespace) {
    let namespace = node(&namespace, "compile_slots = 2\n").await;
    let programs: Vec<Program> = (0..8).map(|number| numbered(&namespace, number).0).collect();
    let all = {
        let namespace = namespace.clone();
        std::thread::spawn(move || namespace.prewasi("precompile", &["--all", "--jobs", "8"]))
    };
    let mut most = 0;
    while !all.is_finished() {
        most = most.max(workers::of_namespace(&namespace).len());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    all.join().expect("the program can be run").success();
    assert_eq!(most, 2);
    for program in programs {
        assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
    }
    finish(namespace).await;
}

/// Asserts that a container of the big module is refused under these options with `reason`. Also asserts that the next image is not
/// affected, and that nothing is left.
async fn assert_stopped(namespace: &Namespace, options: &str, reason: &str) {
    let namespace = node(namespace, options).await;
    let (program, image) = big(&namespace);
    let output = namespace.ctr_run(&image.name, &[]).fails_with(1);
    assert!(output.stderr.contains(reason), "{reason:?} in {output}");
    assert!(output.stderr.contains(&image.name) && output.stderr.contains(&program.digest), "{output}");
    let outcomes = namespace.daemon().journal().compiles(&program.digest);
    assert_eq!(outcomes.iter().map(|compile| &*compile.outcome).collect::<Vec<_>>(), ["failed"]);
    assert_eq!(workers::of_namespace(&namespace), []);
    let (_, small) = numbered(&namespace, 0);
    assert_eq!(namespace.container(&small.name).args(&["exit", "7"]).run().await.code, 7);
    finish(namespace).await;
}

/// A compile may take so long, wall clock.
async fn compile_that_takes_too_long_is_stopped(namespace: Namespace) {
    assert_stopped(&namespace, "compile_timeout = \"2s\"\n", "the compile was stopped after 2 s").await;
}

/// A compile may use so much processor time.
async fn compile_that_uses_up_its_processor_time_is_stopped(namespace: Namespace) {
    let options = "compile_cpu_time = \"2s\"\n";
    assert_stopped(&namespace, options, "the compile was stopped after 2 s of processor time").await;
}

/// A compile may need so much memory.
async fn compile_that_needs_too_much_memory_is_stopped(namespace: Namespace) {
    let options = "compile_memory = \"96MiB\"\n";
    assert_stopped(&namespace, options, "the compile needed more than 96 MiB of memory").await;
}

fn link(pid: impl std::fmt::Display, what: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/{what}")).unwrap_or_else(|error| panic!("{what} of {pid}: {error}")).ino()
}

/// Returns an error that names the parts of the sandbox that are not visible from outside yet.
fn unconfined(worker: Worker) -> Result<(), String> {
    let expected = [
        ("Uid", "65534\t65534\t65534\t65534"),
        ("Gid", "65534\t65534\t65534\t65534"),
        ("Groups", ""),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ];
    for (name, value) in expected {
        let found = worker.status(name)?;
        if found != value {
            return Err(format!("{name} is {found:?}"));
        }
    }
    Ok(())
}

/// A worker has another user, no capabilities and no way to get any, and a system-call filter. It has an empty network namespace, its three
/// descriptors, and a lower processor priority. When it crashes, the error says so and names the signal.
async fn worker_is_confined_and_its_crash_is_named(namespace: Namespace) {
    let (_, image) = big(&namespace);
    let run = {
        let (namespace, name) = (namespace.clone(), image.name.clone());
        std::thread::spawn(move || namespace.ctr_run(&name, &["-V"]))
    };
    let worker = eventually("a confined worker", LIMIT, async || {
        let worker = workers::of_namespace(&namespace).first().copied().ok_or("there is none")?;
        unconfined(worker).map(|()| worker)
    })
    .await;
    for space in ["net", "mnt", "ipc", "uts"] {
        assert_ne!(link(worker.pid, space), link("self", space), "{space}");
    }
    let descriptors = fs::read_dir(format!("/proc/{}/fd", worker.pid)).expect("it runs").flatten();
    let mut descriptors: Vec<_> =
        descriptors.map(|entry| entry.file_name().into_string().unwrap_or_default()).collect();
    descriptors.sort();
    assert_eq!(descriptors, ["0", "1", "2"]);
    let nice = |pid: i32| -> i32 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
        fields.split(' ').nth(16).and_then(|nice| nice.parse().ok()).expect("a number")
    };
    assert_eq!(nice(worker.pid), nice(worker.parent) + 10);
    kill_process(Pid::from_raw(worker.pid).expect("it is a process"), Signal::ABORT).expect("it runs");
    let output = run.join().expect("ctr can be run").fails_with(1);
    assert!(output.stderr.contains("the compiler crashed (signal: 6"), "{output}");
    assert!(output.stderr.contains(&image.name), "{output}");
    namespace.assert_clean().await;
}

/// Returns the resident memory of the daemon that serves a namespace's only container, bytes.
fn resident(namespace: &Namespace) -> u64 {
    let [daemon] = leaks::daemons(namespace)[..] else { panic!("{:?}", leaks::daemons(namespace)) };
    let status = fs::read_to_string(format!("/proc/{daemon}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

/// A daemon is as small after a compile as a daemon that found the artifact: within 4 MiB in a build for tests. (`make bench` measures it.)
async fn daemon_is_as_small_after_a_compile_as_without(namespace: Namespace) {
    let mut sizes = Vec::new();
    for _ in 0..2 {
        // The same program each time: the first one is compiled, the second one found.
        let mut container = ticking(&namespace, DEMO).await;
        sizes.push(resident(&namespace));
        container.kill(Signal::KILL).await.expect("it runs");
        assert_eq!(container.wait().await, 137);
        container.delete().await;
        eventually("the end of the daemon", LIMIT, async || match leaks::daemons(&namespace)[..] {
            [] => Ok(()),
            ref daemons => Err(format!("{daemons:?}")),
        })
        .await;
    }
    let [cold, warm] = sizes[..] else { panic!("{sizes:?}") };
    assert!(cold <= warm + (4 << 20), "{cold} bytes after a compile, {warm} without");
}
