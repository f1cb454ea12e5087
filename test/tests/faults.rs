//! A content store that fails: the container runs all the same, with one warning and one line in the journal.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use prewasi_test::faults::Faults;
use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, BIG_MODULE, Imported, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Containerd, Namespace, case, eventually, home, workers};
use rustix::process::Signal;
use tonic::Code;

use crate::survival::own;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(lasting_errors_cost_the_cache_and_nothing_else),
        case!(failed_look_up_is_a_miss),
        case!(failed_notes_are_of_no_consequence),
        case!(store_that_is_unavailable_for_a_moment_is_asked_again),
        case!(image_that_cannot_be_read_is_an_error_that_names_it),
        case!(full_disk_costs_the_cache_and_nothing_else),
        case!(read_only_store_costs_the_cache_and_nothing_else),
        case!(code_in_memory_cannot_be_changed),
        case!(containerd_may_restart_during_a_compile, needs BigModule),
    ]
}

const ALWAYS: usize = usize::MAX;
/// The single warning about a cache that does not work.
const WARNING: &str = "going on without the cache";

fn demo(namespace: &Namespace, name: &str) -> (Program, Imported) {
    let wasm = fs::read(prewasi_test::guests::path(DEMO)).expect("the guest is there");
    let program = Program::new(image::marked(&wasm, &format!("{}{name}", namespace.name())));
    let image = image::import(namespace, name, |image| image.layer(program.layer("demo.wasm")));
    (program, image)
}

/// The cost of a start: compiles, failures of the cache in the journal, warnings in the log.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    compiles: usize,
    failures: usize,
    warnings: usize,
}

/// Runs a container to its end, which must be well, and returns its cost.
async fn run(namespace: &Namespace, (program, image): &(Program, Imported)) -> Cost {
    let journal = namespace.daemon().journal();
    let before = (journal.compiles(&program.digest).len(), journal.failures(&program.digest));
    let position = namespace.daemon().log_length();
    let exited = namespace.container(&image.name).args(&["echo", "well"]).run().await;
    assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (0, "well\n", ""));
    let log = namespace.daemon().log_since(position, usize::MAX);
    Cost {
        compiles: journal.compiles(&program.digest).len() - before.0,
        failures: journal.failures(&program.digest) - before.1,
        warnings: log.lines().filter(|line| line.contains(WARNING)).count(),
    }
}

/// The cost of a start that found nothing and could keep nothing, and that said so once.
const WITHOUT_CACHE: Cost = Cost { compiles: 1, failures: 1, warnings: 1 };
const COLD: Cost = Cost { compiles: 1, failures: 0, warnings: 0 };
const WARM: Cost = Cost { compiles: 0, failures: 0, warnings: 0 };

async fn finish(namespace: Namespace) {
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// If any call that the cache needs fails for good, the container runs, with one warning and one line in the journal. After the fault the
/// next start stores its artifact, and the one after that compiles nothing.
async fn lasting_errors_cost_the_cache_and_nothing_else(namespace: Namespace) {
    let namespace = own(&namespace).await;
    let faults = Faults::between(namespace.daemon());
    for method in ["Content/Write", "Content/Update", "Content/Status", "Leases/Create", "Leases/List"] {
        for code in [Code::Internal, Code::PermissionDenied] {
            let subject = demo(&namespace, &format!("{}-{code:?}", method.replace('/', "-")).to_lowercase());
            faults.inject(method, None, code, ALWAYS);
            let cost = run(&namespace, &subject).await;
            assert!(faults.clear() > 0, "{method} was not called");
            // Without the lock the code is stored all the same.
            let stored = ["Content/Status", "Leases/List"].contains(&method);
            assert_eq!(cost, WITHOUT_CACHE, "{method} {code:?}");
            assert_eq!(run(&namespace, &subject).await, if stored { WARM } else { COLD }, "{method} {code:?}");
            assert_eq!(run(&namespace, &subject).await, WARM, "{method} {code:?}");
        }
    }
    drop(faults);
    finish(namespace).await;
}

/// A look-up that fails is a miss: one warning, one compile, and the code is stored.
async fn failed_look_up_is_a_miss(namespace: Namespace) {
    let namespace = own(&namespace).await;
    let subject = demo(&namespace, "demo");
    let faults = Faults::between(namespace.daemon());
    faults.inject("Content/Info", Some(&subject.0.digest), Code::Internal, 1);
    assert_eq!(run(&namespace, &subject).await, WITHOUT_CACHE);
    assert_eq!(faults.clear(), 1);
    assert_eq!(run(&namespace, &subject).await, WARM);
    drop(faults);
    finish(namespace).await;
}

/// Calls that only inform people or clean up may fail without a message.
async fn failed_notes_are_of_no_consequence(namespace: Namespace) {
    let namespace = own(&namespace).await;
    let faults = Faults::between(namespace.daemon());
    for method in ["Images/Update", "Leases/Delete", "Content/Abort", "Introspection/Plugins"] {
        let subject = demo(&namespace, &method.replace('/', "-").to_lowercase());
        faults.inject(method, None, Code::Internal, ALWAYS);
        assert_eq!(run(&namespace, &subject).await, COLD, "{method}");
        assert!(faults.clear() > 0, "{method} was not called");
        assert_eq!(run(&namespace, &subject).await, WARM, "{method}");
    }
    drop(faults);
    // Leases that could not be given back expire; a test need not wait for that.
    crate::many::expire_leases(&namespace).await;
    finish(namespace).await;
}

/// A call that fails for a moment is repeated, and nobody notices.
async fn store_that_is_unavailable_for_a_moment_is_asked_again(namespace: Namespace) {
    let namespace = own(&namespace).await;
    let faults = Faults::between(namespace.daemon());
    let methods = [
        "Containers/Get",
        "Images/Get",
        "Content/Info",
        "Content/Read",
        "Content/Write",
        "Content/Update",
        "Content/Status",
        "Leases/Create",
        "Leases/List",
    ];
    for method in methods {
        let subject = demo(&namespace, &method.replace('/', "-").to_lowercase());
        faults.inject(method, None, Code::Unavailable, 2);
        assert_eq!(run(&namespace, &subject).await, COLD, "{method}");
        assert_eq!(faults.clear(), 2, "{method}");
        assert_eq!(run(&namespace, &subject).await, WARM, "{method}");
    }
    drop(faults);
    finish(namespace).await;
}

/// Without its manifest an image is unknown, and no cache can help: the error names the image and keeps containerd's answer.
async fn image_that_cannot_be_read_is_an_error_that_names_it(namespace: Namespace) {
    let namespace = own(&namespace).await;
    let (_, image) = demo(&namespace, "demo");
    let faults = Faults::between(namespace.daemon());
    for method in ["Images/Get", "Content/Read"] {
        faults.inject(method, None, Code::Internal, ALWAYS);
        let refused = namespace.container(&image.name).args(&["exit", "0"]).try_create().await;
        let Err(status) = refused else { panic!("{method}: a container was created") };
        assert!(status.message().contains(&image.name) && status.message().contains("injected"), "{method}: {status}");
        assert!(faults.clear() > 0, "{method} was not called");
        namespace.assert_clean().await;
    }
    drop(faults);
    finish(namespace).await;
}

fn mount(args: &[&str], folder: &Path) {
    let mounted = Command::new("mount").args(args).arg(folder).status();
    assert!(mounted.expect("mount is there").success(), "mount {args:?} {}", folder.display());
}

fn content(folder: &Path) -> std::path::PathBuf {
    folder.join("root/io.containerd.content.v1.content")
}

/// Makes a namespace on a containerd whose content store is a small file system of its own.
async fn small_store(namespace: &Namespace) -> Namespace {
    let prepare = |folder: &Path| {
        let content = content(folder);
        fs::create_dir_all(&content).expect("the folder is ours");
        mount(&["-t", "tmpfs", "-o", "size=16m", "small"], &content);
    };
    Namespace::create(Arc::new(Containerd::start_on(namespace.daemon().series(), prepare).await)).await
}

/// The disk of the content store is full: the container runs, with one warning and one line in the journal.
async fn full_disk_costs_the_cache_and_nothing_else(namespace: Namespace) {
    let namespace = small_store(&namespace).await;
    let subject = demo(&namespace, "demo");
    let filler = content(namespace.daemon().folder()).join("filler");
    let mut file = fs::File::create(&filler).expect("there is room");
    for size in [64 << 10, 1] {
        while std::io::Write::write_all(&mut file, &vec![0; size]).is_ok() {}
    }
    drop(file);
    assert_eq!(run(&namespace, &subject).await, WITHOUT_CACHE);
    fs::remove_file(&filler).expect("it is there");
    assert_eq!(run(&namespace, &subject).await, COLD);
    assert_eq!(run(&namespace, &subject).await, WARM);
    finish(namespace).await;
}

/// The content store cannot be written to: the container runs, with one warning and one line in the journal.
async fn read_only_store_costs_the_cache_and_nothing_else(namespace: Namespace) {
    let namespace = small_store(&namespace).await;
    let subject = demo(&namespace, "demo");
    let content = content(namespace.daemon().folder());
    mount(&["-o", "remount,ro"], &content);
    assert_eq!(run(&namespace, &subject).await, WITHOUT_CACHE);
    mount(&["-o", "remount,rw"], &content);
    assert_eq!(run(&namespace, &subject).await, COLD);
    assert_eq!(run(&namespace, &subject).await, WARM);
    finish(namespace).await;
}

/// Native code that could not be stored runs from memory. No descriptor of the container's process leads to code that can be written to,
/// and no warning claims so.
async fn code_in_memory_cannot_be_changed(namespace: Namespace) {
    let namespace = small_store(&namespace).await;
    let (program, image) = demo(&namespace, "demo");
    mount(&["-o", "remount,ro"], &content(namespace.daemon().folder()));
    let mut container = namespace.container(&image.name).args(&["sleep", "600"]).create().await;
    container.start().await;
    container.prints("sleeping").await;
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
    let folder = format!("/proc/{}/fd", container.pid());
    let mut files = 0;
    for entry in fs::read_dir(folder).expect("it runs").flatten() {
        if !fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        files += 1;
        let opened = fs::File::options().append(true).open(entry.path());
        let written = opened.and_then(|mut file| std::io::Write::write(&mut file, b"x"));
        let error = written.expect_err("code can be changed");
        let expected = [libc::EPERM, libc::EROFS].map(Some);
        assert!(expected.contains(&error.raw_os_error()), "{}: {error}", entry.path().display());
    }
    assert!(files > 0, "the engine keeps its code open");
    let log = namespace.daemon().log_of(namespace.name(), container.id());
    assert!(!log.iter().any(|line| line.contains("cannot protect")), "{log:?}");
    container.end().await;
    mount(&["-o", "remount,rw"], &content(namespace.daemon().folder()));
    finish(namespace).await;
}

/// containerd is killed and comes back while an image is compiled: the code is stored all the same, after one compile.
async fn containerd_may_restart_during_a_compile(namespace: Namespace) {
    let namespace = own(&namespace).await;
    let program = Program::file(&namespace, &home::part(BIG_MODULE));
    let image = image::import(&namespace, "big", |image| image.layer(program.layer("yosys.wasm")));
    let precompile = {
        let (namespace, name) = (namespace.clone(), image.name.clone());
        std::thread::spawn(move || namespace.prewasi("precompile", &[&name]))
    };
    eventually("a compile worker", Duration::from_secs(60), async || {
        if workers::of_namespace(&namespace).is_empty() { Err("none".to_owned()) } else { Ok(()) }
    })
    .await;
    namespace.daemon().restart(Signal::KILL).await;
    precompile.join().expect("the program can be run").success();
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
    let exited = namespace.container(&image.name).args(&["-V"]).run().await;
    assert_eq!((exited.code, namespace.daemon().journal().compiles(&program.digest).len()), (0, 1));
    crate::many::expire_leases(&namespace).await;
    finish(namespace).await;
}
