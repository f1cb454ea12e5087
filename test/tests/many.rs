//! Many processes at once, and processes that die: one compile for all callers, and no step that depends on the next one.

use std::fs;
use std::time::Duration;

use containerd_client::services::v1::{DeleteRequest, ListRequest, ListStatusesRequest};
use prewasi_cache::fault;
use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, BIG_MODULE, Imported, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Exited, Namespace, case, eventually, home, leaks, workers};
use rustix::process::{Signal, kill_process};
use tokio::task::JoinSet;
use tonic::Status;

use crate::labels::assert_contract;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(twenty_tasks_at_once_compile_once, needs BigModule),
        case!(killed_compiler_is_replaced_by_one_waiter, needs BigModule),
        case!(command_line_and_shims_share_one_compile, needs BigModule),
        case!(death_between_two_steps_is_a_plain_miss),
    ]
}

fn big(namespace: &Namespace) -> (Program, Imported) {
    let program = Program::file(namespace, &home::part(BIG_MODULE));
    let image = image::import(namespace, "big", |image| image.layer(program.layer("yosys.wasm")));
    (program, image)
}

/// Starts a container that prints the big program's version.
async fn version(namespace: Namespace, image: String) -> Result<Exited, Status> {
    let mut container = namespace.container(&image).args(&["-V"]).try_create().await?;
    container.start().await;
    Ok(container.finish().await)
}

fn start(namespace: &Namespace, image: &str, count: usize) -> JoinSet<Result<Exited, Status>> {
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        tasks.spawn(version(namespace.clone(), image.to_owned()));
    }
    tasks
}

fn assert_prints_version(exited: &Exited) {
    assert_eq!((exited.code, &*exited.stderr), (0, ""));
    assert!(exited.stdout.starts_with("Yosys 0.17 "), "{}", exited.stdout);
}

/// Twenty tasks of one uncompiled big image, started at once, all run; the image is compiled exactly once.
async fn twenty_tasks_at_once_compile_once(namespace: Namespace) {
    let (program, image) = big(&namespace);
    let mut tasks = start(&namespace, &image.name, 20);
    let mut ran = 0;
    while let Some(outcome) = tasks.join_next().await {
        let exited = outcome.expect("no task panics").unwrap_or_else(|status| panic!("after {ran} had run: {status}"));
        assert_prints_version(&exited);
        ran += 1;
    }
    assert_eq!(ran, 20);
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
}

/// The command line and shims that want the same at the same time share one compile.
async fn command_line_and_shims_share_one_compile(namespace: Namespace) {
    let (program, image) = big(&namespace);
    let precompile = {
        let (namespace, name) = (namespace.clone(), image.name.clone());
        std::thread::spawn(move || namespace.prewasi("precompile", &[&name]))
    };
    let mut tasks = start(&namespace, &image.name, 2);
    while let Some(outcome) = tasks.join_next().await {
        assert_prints_version(&outcome.expect("no task panics").expect("the task runs"));
    }
    precompile.join().expect("the program can be run").success();
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
}

/// When the process that compiles is killed half-way its own container fails, all others run, and one of them compiles.
async fn killed_compiler_is_replaced_by_one_waiter(namespace: Namespace) {
    let (program, image) = big(&namespace);
    let mut tasks = start(&namespace, &image.name, 4);
    let owner = eventually("a process that compiles", Duration::from_secs(200), async || {
        workers::of_namespace(&namespace).first().map(|worker| worker.owner()).ok_or_else(|| "there is none".to_owned())
    })
    .await;
    kill_process(owner, Signal::KILL).expect("it runs");
    let (mut ran, mut failed) = (0, 0);
    while let Some(outcome) = tasks.join_next().await {
        match outcome.expect("no task panics") {
            Ok(exited) => {
                assert_prints_version(&exited);
                ran += 1;
            }
            Err(status) => {
                assert!(status.message().contains("cannot create container"), "{status}");
                failed += 1;
            }
        }
    }
    assert_eq!((ran, failed), (3, 1));
    let compiles = namespace.daemon().journal().compiles(&program.digest);
    assert_eq!(compiles.iter().map(|compile| &*compile.outcome).collect::<Vec<_>>(), ["ok"]);
    expire_leases(&namespace).await;
}

/// A process that is killed between any two steps of compiling and storing leaves a plain miss. The next container runs, the labels are
/// those of the contract, no ingest is left, and every lease expires.
async fn death_between_two_steps_is_a_plain_miss(namespace: Namespace) {
    for point in fault::POINTS {
        let program = Program::new(image::marked(
            &fs::read(prewasi_test::guests::path(DEMO)).expect("a guest"),
            &format!("{}{point}", namespace.name()),
        ));
        let image = image::import(&namespace, point, |image| image.layer(program.layer("demo.wasm")));
        let output = namespace.prewasi_with("precompile", &[&image.name], &[(fault::VARIABLE, point)]);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{point}: {output}");

        let exited = namespace.container(&image.name).args(&["exit", "7"]).run().await;
        assert_eq!((exited.code, &*exited.stderr), (7, ""), "{point}");
        assert_contract(&namespace, &program.digest, &image.name).await;
        let again = namespace.container(&image.name).args(&["exit", "7"]).run().await;
        assert_eq!(again.code, 7, "{point}");
        let compiles = namespace.daemon().journal().compiles(&program.digest).len();
        let expected = if point == "locked" || ["labelled", "checked", "released"].contains(&point) { 1 } else { 2 };
        assert_eq!(compiles, expected, "{point}");
        // An ingest is its lease's, and goes with it.
        expire_leases(&namespace).await;
        let mut content = namespace.client().content();
        let ingests = content.list_statuses(namespace.request(ListStatusesRequest::default())).await;
        assert_eq!(ingests.expect("containerd answers").into_inner().statuses, [], "{point}");
        namespace.remove_image(&image.name).await;
    }
    assert_eq!(leaks::of_namespace(&namespace).await, [""; 0]);
}

/// Asserts that every lease expires within the hour, and then does not wait for it.
pub(crate) async fn expire_leases(namespace: &Namespace) {
    let leases = namespace.client().leases().list(namespace.request(ListRequest::default())).await;
    for lease in leases.expect("containerd answers").into_inner().leases {
        let expiry = lease.labels.get("containerd.io/gc.expire").unwrap_or_else(|| panic!("{lease:?} never expires"));
        let expiry: jiff::Timestamp = expiry.parse().expect("an RFC 3339 time");
        assert!(expiry.as_second() - jiff::Timestamp::now().as_second() < 3600, "{lease:?} expires late");
        let request = DeleteRequest { id: lease.id, sync: true };
        namespace.client().leases().delete(namespace.request(request)).await.expect("a lease can be deleted");
    }
}
