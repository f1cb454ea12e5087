//! `prewasi watch`: the images that it compiles, their order, and the failures that it survives.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use containerd_client::services::v1::{ImageUpdate, PublishRequest, UpdateImageRequest};
use oci_tar_builder::Format;
use prewasi_test::cri::Cri;
use prewasi_test::guests::{self, DEMO, UNKNOWN_IMPORT};
use prewasi_test::image::{self, BIG_MODULE, Imported, Program};
use prewasi_test::service::Service;
use prewasi_test::trial::Case;
use prewasi_test::workers::{self, Worker};
use prewasi_test::{Namespace, case, eventually, home};
use prost::Message as _;
use rustix::process::Signal;

use crate::busybox;
use crate::survival::own;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(imported_image_is_compiled_before_it_runs),
        case!(each_compile_is_a_line),
        case!(images_that_are_there_at_the_start_are_compiled),
        case!(runtime_class_finds_its_code),
        case!(other_namespaces_are_left_alone),
        case!(all_namespaces_are_watched_across_a_restart),
        case!(storm_of_events_is_one_look),
        case!(small_images_come_first_and_a_label_comes_before_that),
        case!(failed_image_is_counted_and_the_rest_goes_on),
        case!(index_that_a_failed_pull_has_left_is_no_failure, needs Busybox Cni),
        case!(image_removed_while_it_is_compiled_is_no_failure, needs BigModule),
        case!(end_leaves_nothing_half_done, needs BigModule),
        case!(pages_are_served),
        case!(service_that_cannot_begin_says_why),
    ]
}

const COMPILES: &str = "prewasi_compiles_total";
const FAILURES: &str = "prewasi_image_failures_total";
const LIMIT: Duration = Duration::from_secs(60);

async fn watch(namespace: &Namespace, args: &[&str]) -> Service {
    Service::start(namespace, &[&["--namespace", namespace.name()], args].concat()).await
}

fn demo(namespace: &Namespace, name: &str) -> (Program, Imported) {
    padded(namespace, name, 1)
}

/// Imports an image with the demo program, longer by so many sections that say nothing.
fn padded(namespace: &Namespace, name: &str, sections: usize) -> (Program, Imported) {
    let mut wasm = fs::read(guests::path(DEMO)).expect("the guest is there");
    for number in 0..sections {
        wasm = image::marked(&wasm, &format!("{} {name} {number}", namespace.name()));
    }
    let program = Program::new(wasm);
    let image = image::import(namespace, name, |image| image.layer(program.layer("demo.wasm")));
    (program, image)
}

fn big(namespace: &Namespace, name: &str) -> (Program, Imported) {
    let wasm = fs::read(home::part(BIG_MODULE)).expect("the part is there");
    let program = Program::new(image::marked(&wasm, &format!("{} {name}", namespace.name())));
    let image = image::import(namespace, name, |image| image.layer(program.layer("yosys.wasm")));
    (program, image)
}

fn compiles(namespace: &Namespace, program: &Program) -> usize {
    namespace.daemon().journal().compiles(&program.digest).len()
}

/// An image that is imported while the service runs is compiled at once, and its first container compiles nothing.
async fn imported_image_is_compiled_before_it_runs(namespace: Namespace) {
    let service = watch(&namespace, &[]).await;
    let (program, image) = demo(&namespace, "demo");
    service.reaches(COMPILES, 1.0).await;
    service.is_idle().await;
    let exited = namespace.container(&image.name).args(&["exit", "7"]).run().await;
    assert_eq!((exited.code, compiles(&namespace, &program)), (7, 1));
    assert_eq!(service.figure("prewasi_misses_total{engine=\"wasmtime\",reason=\"absent\"}"), 1.0);
    assert!(service.figure("prewasi_compiled_bytes_total") > 1000.0);
    assert!(service.figure("prewasi_compile_seconds_sum") > 0.0);
}

/// Every compile is one line of the log, with image, layer, engine, seconds and size; code that is there already is none.
async fn each_compile_is_a_line(namespace: Namespace) {
    let service = watch(&namespace, &[]).await;
    let (program, image) = demo(&namespace, "demo");
    service.reaches(COMPILES, 1.0).await;
    service.is_idle().await;
    tell_of(&namespace, &image.name).await;
    service.reaches("prewasi_hits_total", 1.0).await;
    service.is_idle().await;
    let size = service.figure("prewasi_compiled_bytes_total");
    let (_, said) = service.end(Signal::TERM).await;
    let lines: Vec<&str> = said.lines().filter(|line| line.contains(" compiled ")).collect();
    let [line] = lines[..] else { panic!("{said}") };
    let field = |name: &str| {
        let rest = line.split_once(&format!(" {name}=")).unwrap_or_else(|| panic!("no {name} in {line}")).1;
        rest.split(' ').next().expect("a word").trim_matches('"').to_owned()
    };
    assert_eq!((field("namespace"), field("image")), (namespace.name().to_owned(), image.name));
    assert_eq!((field("layer"), field("engine")), (program.digest, "wasmtime".to_owned()));
    assert_eq!(field("size").parse::<f64>(), Ok(size), "{line}");
    assert!(field("seconds").parse::<f64>().is_ok_and(|seconds| seconds > 0.0), "{line}");
}

/// Images that were pulled before the service began are compiled too.
async fn images_that_are_there_at_the_start_are_compiled(namespace: Namespace) {
    let (program, _) = demo(&namespace, "demo");
    let service = watch(&namespace, &[]).await;
    service.reaches(COMPILES, 1.0).await;
    assert_eq!(compiles(&namespace, &program), 1);
    service.is_idle().await;
    // One that begins later finds it done.
    let second = watch(&namespace, &[]).await;
    second.reaches("prewasi_hits_total", 1.0).await;
    assert_eq!((second.figure(COMPILES), compiles(&namespace, &program)), (0.0, 1));
}

/// With `--config` it compiles the code for containers of that runtime class.
async fn runtime_class_finds_its_code(namespace: Namespace) {
    let class = "optimize = \"size\"\n";
    let file = namespace.folder().join("class.toml");
    fs::write(&file, class).expect("the folder is ours");
    let service = watch(&namespace, &["--config", file.to_str().expect("the path is text")]).await;
    let (program, image) = demo(&namespace, "demo");
    service.reaches(COMPILES, 1.0).await;
    service.is_idle().await;
    let exited = namespace.container(&image.name).options(class).args(&["exit", "7"]).run().await;
    assert_eq!((exited.code, compiles(&namespace, &program)), (7, 1));
    assert_eq!(namespace.container(&image.name).args(&["exit", "7"]).run().await.code, 7);
    assert_eq!(compiles(&namespace, &program), 2);
}

/// Only the namespaces asked for are watched.
async fn other_namespaces_are_left_alone(namespace: Namespace) {
    let other = namespace.another().await;
    let service = watch(&namespace, &[]).await;
    let (unwanted, _) = demo(&other, "other");
    let (wanted, _) = demo(&namespace, "demo");
    service.reaches(COMPILES, 1.0).await;
    service.is_idle().await;
    assert_eq!((compiles(&namespace, &wanted), compiles(&namespace, &unwanted)), (1, 0));
    drop(service);
    other.clear().await;
    other.assert_clean().await;
}

/// Without a choice all namespaces are watched. A containerd that goes away and comes back is found again, and images pulled meanwhile are
/// compiled.
async fn all_namespaces_are_watched_across_a_restart(namespace: Namespace) {
    let first = own(&namespace).await;
    let service = Service::start(&first, &[]).await;
    demo(&first, "before");
    service.reaches(COMPILES, 1.0).await;
    first.daemon().restart(Signal::KILL).await;
    let second = first.another().await;
    demo(&second, "after");
    service.reaches(COMPILES, 2.0).await;
    service.reaches("prewasi_lists_total", 2.0).await;
    service.is_idle().await;
    assert_eq!((service.figure("prewasi_containerd_connected"), service.figure(FAILURES)), (1.0, 0.0));
    let (code, said) = service.end(Signal::TERM).await;
    assert_eq!(code, Some(0), "{said}");
    for namespace in [first, second] {
        namespace.clear().await;
        namespace.assert_clean().await;
    }
}

/// Tells of an image as containerd does when its record was changed.
async fn tell_of(namespace: &Namespace, image: &str) {
    let value = ImageUpdate { name: image.to_owned(), ..Default::default() }.encode_to_vec();
    let event = prost_types::Any { type_url: "containerd.services.images.v1.ImageUpdate".to_owned(), value };
    let request = PublishRequest { topic: "/images/update".to_owned(), event: Some(event) };
    namespace.client().events().publish(namespace.request(request)).await.expect("containerd takes events");
}

/// A thousand events about one image that waits for its turn are one look at it and one compile.
async fn storm_of_events_is_one_look(namespace: Namespace) {
    let service = watch(&namespace, &[]).await;
    let (program, image) = demo(&namespace, "demo");
    service.reaches(COMPILES, 1.0).await;
    service.is_idle().await;
    let (events, hits) = (service.figure("prewasi_image_events_total"), service.figure("prewasi_hits_total"));
    // While the service is stopped they pile up.
    rustix::process::kill_process(service.pid(), Signal::STOP).expect("it runs");
    for _ in 0..1000 {
        tell_of(&namespace, &image.name).await;
    }
    rustix::process::kill_process(service.pid(), Signal::CONT).expect("it runs");
    service.reaches("prewasi_image_events_total", events + 1000.0).await;
    service.is_idle().await;
    let looks = service.figure("prewasi_hits_total") - hits;
    assert!(looks < 500.0, "{looks} looks for a thousand events");
    assert_eq!(compiles(&namespace, &program), 1);
}

/// Images are compiled one after the other: first those that a label ranks, then the smallest.
async fn small_images_come_first_and_a_label_comes_before_that(namespace: Namespace) {
    let images: Vec<_> =
        [("middle", 4), ("small", 1), ("big", 9)].map(|(name, size)| padded(&namespace, name, size)).into();
    let (ranked, record) = padded(&namespace, "ranked", 12);
    let labels = [("example.com/rank".to_owned(), "1".to_owned())].into();
    let mut image = namespace.image(&record.name).await.expect("it is there");
    image.labels = labels;
    let update_mask = Some(prost_types::FieldMask { paths: vec!["labels".to_owned()] });
    let request = UpdateImageRequest { image: Some(image), update_mask, ..Default::default() };
    namespace.client().images().update(namespace.request(request)).await.expect("an image can be labelled");
    let service = watch(&namespace, &["--jobs", "1", "--rank-label", "example.com/rank"]).await;
    service.reaches(COMPILES, 4.0).await;
    service.is_idle().await;
    let expected = [&ranked, &images[1].0, &images[0].0, &images[2].0].map(|program| program.digest.clone());
    let order: Vec<String> = namespace.daemon().journal().all().into_iter().map(|compile| compile.source).collect();
    let order: Vec<&String> = order.iter().filter(|source| expected.contains(source)).collect();
    assert_eq!(order, expected.iter().collect::<Vec<_>>());
}

/// An image that cannot be compiled is counted and said, once however often it is heard of, and the others are compiled.
async fn failed_image_is_counted_and_the_rest_goes_on(namespace: Namespace) {
    let service = watch(&namespace, &["--jobs", "1"]).await;
    let unusable = Program::guest(&namespace, UNKNOWN_IMPORT);
    let bad = image::import(&namespace, "bad", |image| image.layer(unusable.layer("bad.wasm")));
    service.reaches(FAILURES, 1.0).await;
    tell_of(&namespace, &bad.name).await;
    demo(&namespace, "good");
    service.reaches(COMPILES, 1.0).await;
    service.is_idle().await;
    assert_eq!((service.figure(FAILURES), service.figure("prewasi_compile_failures_total")), (1.0, 1.0));
    assert_eq!(compiles(&namespace, &unusable), 1);
    let said = service.said();
    assert!(said.contains(&bad.name) && said.contains("cannot provide import"), "{said}");
}

/// Waits for a compile to begin.
async fn worker(namespace: &Namespace) -> Worker {
    eventually("a compile worker", LIMIT, async || match workers::of_namespace(namespace)[..] {
        [worker] => Ok(worker),
        ref other => Err(format!("{other:?}")),
    })
    .await
}

/// No more than the allowed compiles go on, on no more than the allowed cores. An image that is removed while it is compiled, or
/// while it waits, is no failure; its compile ends, and nothing is left.
async fn image_removed_while_it_is_compiled_is_no_failure(namespace: Namespace) {
    let service = watch(&namespace, &["--jobs", "1", "--cpus", "1"]).await;
    let images = [big(&namespace, "first"), big(&namespace, "second")];
    let cores = worker(&namespace).await.status("Cpus_allowed_list").expect("it runs");
    assert!(cores.parse::<u32>().is_ok(), "one core, not {cores}");
    service.reaches("prewasi_queue_length", 2.0).await;
    assert_eq!(workers::of_namespace(&namespace).len(), 1);
    for (_, image) in &images {
        namespace.remove_image(&image.name).await;
    }
    service.is_idle().await;
    assert_eq!(service.figure(FAILURES), 0.0);
    assert_eq!(workers::of_namespace(&namespace), []);
    for (program, _) in &images {
        assert_eq!(compiles(&namespace, program), 0, "nobody compiles for an image that is gone");
        assert_eq!(namespace.blob(&program.digest).await, None);
    }
    let (code, said) = service.end(Signal::TERM).await;
    assert_eq!(code, Some(0), "{said}");
    namespace.assert_clean().await;
}

/// SIGTERM and SIGINT end the service with 0, and with it the compile that goes on; nothing half done is left.
async fn end_leaves_nothing_half_done(namespace: Namespace) {
    let (program, image) = big(&namespace, "big");
    for signal in [Signal::TERM, Signal::INT] {
        let service = watch(&namespace, &[]).await;
        let worker = worker(&namespace).await;
        let (code, said) = service.end(signal).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(worker.status("State").is_err(), "{worker:?} goes on");
        assert_eq!(compiles(&namespace, &program), 0);
        namespace.assert_clean().await;
    }
    namespace.remove_image(&image.name).await;
}

/// Liveness, readiness and figures are pages of their own; there are no others.
async fn pages_are_served(namespace: Namespace) {
    let service = watch(&namespace, &[]).await;
    assert_eq!(service.get("/healthz"), Ok((200, "ok\n".to_owned())));
    assert_eq!(service.get("/readyz"), Ok((200, "ready\n".to_owned())));
    assert_eq!(service.get("/secrets").map(|(status, _)| status), Ok(404));
    let (status, text) = service.get("/metrics").expect("the service answers");
    assert_eq!(status, 200);
    assert!(text.ends_with("# EOF\n"), "{text}");
}

/// If an address is taken or a containerd is missing, the error names the subject and the remedy.
async fn service_that_cannot_begin_says_why(namespace: Namespace) {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it is bound").to_string();
    let output = namespace.prewasi("watch", &["--metrics", &address]).fails_with(2);
    output.says(&["error: cannot listen on 127.0.0.1:", "caused by: Address already in use", "hint: --metrics"]);
    let nowhere = namespace.folder().join("nowhere.sock");
    let nowhere = nowhere.to_string_lossy();
    let mut command = namespace.daemon().command(home::program("prewasi"));
    let output = prewasi_test::process::run(command.args(["watch", "--address", &*nowhere]), LIMIT);
    output.fails_with(2).says(&["error: cannot", &*nowhere, "hint: start containerd"]);
}

/// CRI pulls for the node's own platform. Of an index with wasm alone it leaves the index, and nothing that could be compiled. That is no
/// failure of this service; once somebody pulls the image for wasm it is compiled.
async fn index_that_a_failed_pull_has_left_is_no_failure(namespace: Namespace) {
    let cri = Cri::start(namespace.daemon().series(), &busybox::bytes(), "").await;
    let program = Program::guest(&namespace, DEMO);
    let reference =
        cri.push("wasm-only:v1", Format::Image, |image| image.layer(program.layer("demo.wasm")).platform_index(true));
    let service = Service::start_on(&cri.daemon, &home::program("prewasi"), &["--namespace", "k8s.io"]).await;
    cri.try_pull(&reference).await.expect_err("there is nothing for this node");
    let ctr = |args: &[&str]| cri.daemon.ctr("k8s.io", &[&["images"], args].concat()).success().stdout;
    // containerd 1.7 leaves nothing.
    let left = ctr(&["ls", "-q"]);
    assert_eq!(left.contains(&reference), !cri.daemon.series().is_old(), "{left}");
    service.is_idle().await;
    assert_eq!(service.figure(FAILURES), 0.0, "{}", service.said());
    // From 2.3 on `--platform` fails; with 1.7 all platforms do, for there is none of this machine's.
    let platform = if cri.daemon.series().is_old() { "--platform=wasip1/wasm" } else { "--all-platforms" };
    ctr(&["pull", "--plain-http", platform, &reference]);
    eventually("the compile", LIMIT, async || match service.figure(COMPILES) {
        1.0 => Ok(()),
        count => Err(format!("{count}\n{}", service.said())),
    })
    .await;
    assert_eq!(cri.daemon.journal().compiles(&program.digest).len(), 1);
    assert_eq!(service.figure(FAILURES), 0.0, "{}", service.said());
    let (code, said) = service.end(Signal::TERM).await;
    assert_eq!(code, Some(0), "{said}");
    cri.finish().await;
}
