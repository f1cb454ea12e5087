//! A shim's reports about its containers: lines of a log, and traces for a collector.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prewasi_test::collector::{Collector, Received};
use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Imported, Program};
use prewasi_test::memory::regions_with;
use prewasi_test::trial::Case;
use prewasi_test::{Containerd, Namespace, case, eventually, leaks};
use rustix::process::Signal;

use crate::{busybox, running};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(lines_have_the_fields_of_their_container),
        case!(lines_of_native_containers_have_all_but_the_image, needs Busybox),
        case!(level_of_the_log_is_configured),
        case!(spans_arrive_over_http),
        case!(spans_arrive_over_grpc_below_those_of_containerd),
        case!(context_of_a_call_is_taken_over_and_handed_on, needs Busybox),
        case!(traces_that_others_leave_out_are_left_out),
        case!(failed_creation_is_a_span_that_says_why),
        case!(collector_that_is_not_there_costs_nothing),
        case!(collector_that_hangs_costs_nothing),
        case!(malformed_variables_are_one_warning_each),
    ]
}

/// How long a line may take on its way through containerd.
const LIMIT: Duration = Duration::from_secs(10);

fn demo(namespace: &Namespace) -> Imported {
    let program = Program::guest(namespace, DEMO);
    image::import(namespace, "demo", |image| image.layer(program.layer("demo.wasm")))
}

/// Makes a namespace on a containerd of its own with these variables, and its configuration changed.
async fn private(namespace: &Namespace, variables: &[(&str, &str)], change: impl Fn(&str) -> String) -> Namespace {
    let prepare = |folder: &Path| {
        let file = folder.join("config.toml");
        let text = fs::read_to_string(&file).expect("the configuration is there");
        fs::write(file, change(&text)).expect("the folder is ours");
    };
    Namespace::create(Arc::new(Containerd::start_with(namespace.daemon().series(), variables, prepare).await)).await
}

/// Makes a namespace on a containerd of its own with these variables.
async fn traced(namespace: &Namespace, variables: &[(&str, &str)]) -> Namespace {
    private(namespace, variables, str::to_owned).await
}

/// Checks that nothing is left on a containerd of a test's own.
async fn done(namespace: Namespace) {
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// Runs a demo container to its end; returns its id and its output.
async fn run(namespace: &Namespace, image: &Imported, options: &str, args: &[&str]) -> (String, String) {
    let mut container = namespace.container(&image.name).options(options).args(args).create().await;
    let id = container.id().to_owned();
    container.start().await;
    let exited = container.finish().await;
    assert_eq!(exited.code, 0, "{}", exited.stderr);
    (id, exited.stdout)
}

/// Waits for a line about a container with this part, and returns all its lines.
async fn lines(namespace: &Namespace, id: &str, part: &str) -> Vec<String> {
    eventually(&format!("a line with {part:?} about {id}"), LIMIT, async || {
        let lines = namespace.daemon().log_of(namespace.name(), id);
        if lines.iter().any(|line| line.contains(part)) { Ok(lines) } else { Err(lines.join("\n")) }
    })
    .await
}

/// Asserts that the lines of a container's life have these fields, and all of its lines those that are known from the begin.
async fn assert_fields(namespace: &Namespace, id: &str, pod: &str, image: Option<&Imported>, engine: &str) {
    let lines = lines(namespace, id, "\"container deleted\"").await;
    let always = format!("namespace={} container={id} pod={pod}", namespace.name());
    let image = image.map(|image| format!(" image={}", image.digest)).unwrap_or_default();
    let later = format!("{always}{image} engine={engine}");
    for line in lines.iter().filter(|line| line.contains(" msg=") && !line.contains("runtime=io.containerd")) {
        assert!(line.contains(&always), "{line}");
    }
    for part in ["\"container created\"", "\"container started\"", "\"process ended\"", "\"container deleted\""] {
        let line = lines.iter().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part} in {lines:?}"));
        assert!(line.contains(&later), "{line}");
    }
}

/// Each line about a wasm container names its namespace, itself and its pod, and its image and engine as soon as they are known. So do
/// lines of a helper, at debug level with containerd's own `-debug`.
async fn lines_have_the_fields_of_their_container(namespace: Namespace) {
    let image = demo(&namespace);
    let builder = namespace.container(&image.name).annotation("io.kubernetes.cri.sandbox-id", "pod-7");
    let mut container = builder.options("log_level = \"error\"").args(&["echo", "hello"]).create().await;
    let id = container.id().to_owned();
    container.start().await;
    container.finish().await;
    assert_fields(&namespace, &id, "pod-7", Some(&image), "wasmtime").await;
    let prepared = lines(&namespace, &id, "\"program prepared\"").await;
    let prepared = prepared.iter().find(|line| line.contains("\"program prepared\"")).expect("it was found");
    assert!(prepared.contains("level=debug") && prepared.contains(&image.digest), "{prepared}");
}

/// Lines about native containers have the same fields but the image, for which nobody asks.
async fn lines_of_native_containers_have_all_but_the_image(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let (id, _) = run(&namespace, &image, "", &["true"]).await;
    assert_fields(&namespace, &id, &id, None, "native").await;
}

/// `log_level` in the node's file counts for daemon and helpers, and in the options of the runtime over it.
async fn level_of_the_log_is_configured(namespace: Namespace) {
    let quiet = |text: &str| text.replace("level = \"debug\"", "level = \"info\"");
    let namespace = private(&namespace, &[], quiet).await;
    let image = demo(&namespace);
    let (plain, printed) = run(&namespace, &image, "", &["env"]).await;
    assert!(!printed.contains("TRACE"), "nobody traces: {printed}");
    let found = lines(&namespace, &plain, "\"container deleted\"").await;
    assert!(!found.iter().any(|line| line.contains("level=debug")), "{found:?}");

    fs::write(namespace.daemon().options(), "log_level = \"debug\"\n").expect("the folder is ours");
    let (debug, _) = run(&namespace, &image, "", &["echo", "x"]).await;
    lines(&namespace, &debug, "\"program prepared\"").await;

    let (silent, _) = run(&namespace, &image, "log_level = \"error\"", &["echo", "x"]).await;
    // Lines arrive in their order: a line of this container would arrive before the lines of a later one.
    let (after, _) = run(&namespace, &image, "", &["echo", "x"]).await;
    lines(&namespace, &after, "\"container deleted\"").await;
    let found = namespace.daemon().log_of(namespace.name(), &silent);
    let own: Vec<&String> = found.iter().filter(|line| line.contains("namespace=") && line.contains("pod=")).collect();
    assert!(own.is_empty(), "{own:?}");
    done(namespace).await;
}

fn span<'a>(spans: &'a [Received], name: &str) -> &'a Received {
    let mut found = spans.iter().filter(|span| span.name == name);
    match (found.next(), found.next()) {
        (Some(span), None) => span,
        other => panic!("one span {name}: {other:?}"),
    }
}

const LIFE: [&str; 6] = ["create", "mount", "build", "start", "container", "delete"];

/// Asserts that spans hang together as they should.
fn assert_tree(spans: &[Received]) {
    let root = span(spans, "container");
    for (name, above) in [("create", "container"), ("start", "container"), ("delete", "container")] {
        assert_eq!(span(spans, name).parent, span(spans, above).id, "{name}");
    }
    for name in ["mount", "load", "compile", "build"] {
        for found in spans.iter().filter(|span| span.name == name) {
            assert_eq!(found.parent, span(spans, "create").id, "{name}");
        }
    }
    for span in spans {
        assert!(span.trace == root.trace && span.length >= 0 && span.error.is_empty(), "{span:?}");
    }
}

/// A cold start has spans for all its steps, a warm one none for a compile. They arrive over HTTP with the headers, the service and the
/// attributes that the variables name. The wasm program is told of its trace, and the headers are not in its memory.
async fn spans_arrive_over_http(namespace: Namespace) {
    let collector = Collector::start().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.http()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20very-own-secret"),
        ("OTEL_SERVICE_NAME", "edge-shim"),
        ("OTEL_RESOURCE_ATTRIBUTES", "zone=b"),
    ];
    let namespace = traced(&namespace, &variables).await;
    let image = demo(&namespace);
    let (cold, printed) = run(&namespace, &image, "", &["env"]).await;
    let spans = collector.wait_for(&cold, &[&LIFE[..], &["compile", "load"]].concat()).await;
    assert_tree(&spans);
    let root = span(&spans, "container");
    assert_eq!((&*root.parent, &*root.service, &*root.key), ("", "edge-shim", "a very-own-secret"));
    let attribute = |span: &Received, name: &str| span.attributes.get(name).cloned().unwrap_or_default();
    for (name, value) in [("zone", "b"), ("namespace", namespace.name()), ("pod", &cold), ("status", "0")] {
        assert_eq!(attribute(root, name), value, "{name}");
    }
    for name in ["container", "load", "compile"] {
        assert_eq!(attribute(span(&spans, name), "image"), image.digest, "{name}");
        assert_eq!(attribute(span(&spans, name), "engine"), "wasmtime", "{name}");
    }
    let parent = format!("00-{}-{}-01", root.trace, root.id);
    assert!(printed.contains(&format!("TRACECONTEXT={{\"traceparent\":\"{parent}\"}}\n")), "{printed}");
    assert!(printed.contains(&format!("TRACEPARENT={parent}\n")), "{printed}");

    let (warm, _) = run(&namespace, &image, "", &["env"]).await;
    let spans = collector.wait_for(&warm, &[&LIFE[..], &["load"]].concat()).await;
    assert_tree(&spans);
    assert!(!spans.iter().any(|span| span.name == "compile"), "{spans:?}");
    assert_ne!(span(&spans, "container").trace, root.trace);
    let container = running::ticking(&namespace, DEMO).await;
    let daemons = leaks::daemons(&namespace);
    let environment = fs::read_to_string(format!("/proc/{}/environ", daemons[0])).expect("a daemon runs");
    assert!(environment.contains("OTEL_SERVICE_NAME=edge-shim"), "{environment:?}");
    assert!(!environment.contains("secret"), "{environment:?}");
    assert_eq!(regions_with(container.pid(), "very-own-secret"), [""; 0]);
    container.end().await;
    done(namespace).await;
}

/// Spans arrive over gRPC too. A containerd that traces, and hands its context on to shims, has those of the shim below its own.
async fn spans_arrive_over_grpc_below_those_of_containerd(namespace: Namespace) {
    let collector = Collector::start().await;
    let endpoint = collector.grpc();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=1"),
    ];
    let tracing = |text: &str| {
        let disabled = r#"    "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp","#;
        assert!(text.contains(disabled));
        text.replace(disabled, "")
    };
    let series = namespace.daemon().series();
    let namespace = private(&namespace, &variables, tracing).await;
    let image = demo(&namespace);
    let (id, _) = run(&namespace, &image, "", &["echo", "x"]).await;
    let spans = collector.wait_for(&id, &[&LIFE[..], &["compile", "load"]].concat()).await;
    let root = span(&spans, "container");
    assert_eq!((&*root.service, &*root.key), ("containerd-shim-wasmtime-v1", "1"));
    if !series.is_old() {
        eventually("containerd's own span above", LIMIT, async || {
            let all = collector.all();
            let above = all.iter().find(|span| span.id == root.parent && span.trace == root.trace);
            above.map(|above| assert_eq!(above.service, "containerd")).ok_or_else(|| format!("{root:?} in {all:?}"))
        })
        .await;
    } else {
        assert_tree(&spans);
        assert_eq!(root.parent, "");
    }
    done(namespace).await;
}

/// The trace in the metadata of a call counts: the container's spans are part of that trace, and its program is told.
async fn context_of_a_call_is_taken_over_and_handed_on(namespace: Namespace) {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const ABOVE: &str = "b7ad6b7169203331";
    let collector = Collector::start().await;
    let namespace = traced(&namespace, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.http())]).await;
    let other = running::sleeping(&namespace).await;
    let parent = format!("00-{TRACE}-{ABOVE}-01");
    let metadata = [("traceparent", &*parent), ("tracestate", "a=1")];
    let native = namespace.container(&busybox::image(&namespace).name).args(&["env"]);
    let wasm = namespace.container(&demo(&namespace).name).args(&["env"]);
    for container in [native, wasm] {
        let (id, printed) = container.run_beside(&other, &metadata).await;
        let spans = collector.wait_for(&id, &LIFE).await;
        let root = span(&spans, "container");
        assert_eq!((&*root.trace, &*root.parent, &*root.state), (TRACE, ABOVE, "a=1"));
        let own = format!("00-{TRACE}-{}-01", root.id);
        let json = format!("TRACECONTEXT={{\"traceparent\":\"{own}\",\"tracestate\":\"a=1\"}}\n");
        for line in [json, format!("TRACEPARENT={own}\n"), "TRACESTATE=a=1\n".to_owned()] {
            assert!(printed.contains(&line), "{line} in {printed}");
        }
        let above_start = &span(&spans, "start").parent;
        assert_eq!(above_start, ABOVE, "a call has its own span above");
    }
    let process = other.exec(&["/bin/busybox", "env"]).run().await;
    let spans = collector.wait_for(other.id(), &["exec"]).await;
    let trace = &span(&spans, "exec").trace;
    assert!(process.stdout.contains(&format!("TRACEPARENT=00-{trace}-")), "{}", process.stdout);
    other.end().await;
    done(namespace).await;
}

/// A trace that somebody above does not keep is not sent, and the program is told that; a sampler can leave out all.
async fn traces_that_others_leave_out_are_left_out(namespace: Namespace) {
    let collector = Collector::start().await;
    let variables =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.http()), ("OTEL_TRACES_SAMPLER", "parentbased_always_off")];
    let namespace = traced(&namespace, &variables).await;
    let image = demo(&namespace);
    let mut other = namespace.container(&image.name).create().await;
    other.start().await;
    let unkept = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")];
    let (left_out, printed) = namespace.container(&image.name).args(&["env"]).run_beside(&other, &unkept).await;
    assert!(printed.contains("TRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-"), "{printed}");
    assert!(printed.contains("-00\n"), "{printed}");
    let kept = [("traceparent", "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")];
    let (id, _) = namespace.container(&image.name).args(&["env"]).run_beside(&other, &kept).await;
    collector.wait_for(&id, &LIFE).await;
    assert_eq!(collector.of(&left_out), []);
    assert_eq!(collector.of(other.id()), []);
    other.end().await;
    done(namespace).await;
}

/// A container that cannot be created has spans all the same, with the reason.
async fn failed_creation_is_a_span_that_says_why(namespace: Namespace) {
    let collector = Collector::start().await;
    let namespace = traced(&namespace, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.http())]).await;
    let image = demo(&namespace);
    let refused = namespace.container(&image.name).options("nonsense = 1").try_create().await;
    assert!(refused.is_err());
    let failed = eventually("the span of a failed creation", LIMIT, async || {
        let all = collector.all();
        let root = all.iter().find(|span| span.name == "container").cloned();
        root.ok_or_else(|| format!("{all:?}"))
    })
    .await;
    assert!(failed.error.contains("no option is called \"nonsense\""), "{failed:?}");
    done(namespace).await;
}

/// Runs a container with a collector that does not answer, and asserts that it runs as ever and that there is one warning.
async fn assert_runs_without(namespace: &Namespace, variables: &[(&str, &str)], reason: &str) {
    let namespace = traced(namespace, variables).await;
    let image = demo(&namespace);
    run(&namespace, &image, "", &["echo", "warm"]).await;
    let begun = Instant::now();
    let mut container = namespace.container(&image.name).create().await;
    container.start().await;
    container.prints("tick 1\n").await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let id = container.id().to_owned();
    let warning = eventually("a warning", LIMIT, async || {
        let log = namespace.daemon().log_since(0, usize::MAX);
        let warnings: Vec<&str> = log.lines().filter(|line| line.contains("spans are lost")).collect();
        warnings.last().map(|line| (*line).to_owned()).ok_or_else(|| "no warning".to_owned())
    })
    .await;
    assert!(warning.contains("level=warning") && warning.contains(reason), "{warning}");
    container.kill(Signal::TERM).await.expect("it runs");
    container.finish().await;
    lines(&namespace, &id, "\"container deleted\"").await;
    let log = namespace.daemon().log_since(0, usize::MAX);
    // One of each daemon; containerd need not read a daemon's messages after the end of its last container.
    assert!(log.lines().filter(|line| line.contains("spans are lost")).count() <= 2, "{log}");
    done(namespace).await;
}

/// A collector that refuses connections is one warning, and delays nothing.
async fn collector_that_is_not_there_costs_nothing(namespace: Namespace) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port is free");
    let endpoint = format!("http://{port}");
    for protocol in ["grpc", "http/protobuf"] {
        let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)];
        assert_runs_without(&namespace, &variables, "Connection refused").await;
    }
}

/// A collector that takes connections and never answers is one warning, and delays nothing.
async fn collector_that_hangs_costs_nothing(namespace: Namespace) {
    let hanging = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let endpoint = format!("http://{}", hanging.local_addr().expect("it is bound"));
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("OTEL_EXPORTER_OTLP_TIMEOUT", "700")];
    assert_runs_without(&namespace, &variables, "longer than 700ms").await;
}

/// Variables that cannot be used are said once each, and containers run; spans are sent as far as the others allow.
async fn malformed_variables_are_one_warning_each(namespace: Namespace) {
    let collector = Collector::start().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.http()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    ];
    let namespace = traced(&namespace, &variables).await;
    let image = demo(&namespace);
    let (id, _) = run(&namespace, &image, "", &["echo", "x"]).await;
    collector.wait_for(&id, &LIFE).await;
    lines(&namespace, &id, "\"container deleted\"").await;
    let log = namespace.daemon().log_since(0, usize::MAX);
    for name in ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TIMEOUT"] {
        let warnings = log.lines().filter(|line| line.contains("level=warning") && line.contains(name)).count();
        assert_eq!(warnings, 1, "{name}");
    }
    done(namespace).await;
}
