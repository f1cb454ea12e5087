//! Measures HTTP requests, compared to `wasmtime serve` of the same version, and the growth of memory.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use prewasi_test::guests::{self, WEB};
use prewasi_test::http::{self, Connection};
use prewasi_test::image::{self, Program};
use prewasi_test::process;
use prewasi_test::{Container, Namespace, eventually, home};
use serde_json::json;

use crate::Counts;
use crate::compile::{WASMTIME, version_of_wasmtime};
use crate::engines::proportional;
use crate::table::{Samples, Section, Table, Target};

/// Numbers of connections, and the factor of the other server's requests per second to reach with each.
const LOADS: [(u32, f64); 3] = [(1, 1.8), (16, 2.2), (64, 1.5)];
/// The option with which an instance answers many requests.
const REUSE: &str = "http_instance_requests = 1000";
/// Duration of each measurement, in seconds.
const SECONDS: u32 = 4;
const LIMIT: Duration = Duration::from_secs(60);
/// Numbers of requests after which memory is measured.
const REQUESTS: [usize; 2] = [1_000, 100_000];
/// Allowed growth of memory between the two, in MiB.
const GROWTH: f64 = 1.0;

/// The result of one run of `wrk`.
struct Load {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

/// A running `wasmtime serve`, ended on drop.
struct Theirs(Child);

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Takes the measurements in turns.
pub(crate) async fn measure(namespace: &Namespace, counts: Counts) -> Section {
    let (ours, reusing, theirs) = (address(), address(), address());
    let container = serve(namespace, &ours, "").await;
    let reuser = serve(namespace, &reusing, REUSE).await;
    let other = Theirs(wasmtime_serve(&theirs));
    listens(&theirs).await;
    let mut tables = Vec::new();
    for (connections, factor) in LOADS {
        let mut rates = [Samples::default(), Samples::default(), Samples::default()];
        let (mut p50, mut p99) = (rates.clone(), rates.clone());
        for _ in 0..counts.cold {
            for (index, address) in [&theirs, &ours, &reusing].into_iter().enumerate() {
                let load = wrk(address, connections);
                rates[index].add(load.per_second);
                p50[index].add_time(load.p50);
                p99[index].add_time(load.p99);
            }
        }
        let mut table = Table::new("requests a second");
        let target =
            |ours: &Samples| Some(Target::at_least(ours.median(), rates[0].median(), factor, " `wasmtime serve`"));
        table.row(&format!("`wasmtime serve`, connections: {connections}"), &rates[0], None);
        table.row(&format!("prewasi, connections: {connections}"), &rates[1], target(&rates[1]));
        table.row(
            &format!("prewasi, instances that are used again, connections: {connections}"),
            &rates[2],
            target(&rates[2]),
        );
        tables.push(table);
        let mut table = Table::new("ms");
        let target = |ours: &Samples| Some(Target::factor(ours.median(), p99[0].median(), 1.0, " `wasmtime serve`"));
        table.row("`wasmtime serve`, half of the requests", &p50[0], None);
        table.row("prewasi, half of the requests", &p50[1], None);
        table.row("`wasmtime serve`, 99 % of the requests", &p99[0], None);
        table.row("prewasi, 99 % of the requests", &p99[1], target(&p99[1]));
        table.row("prewasi, instances that are used again, 99 % of the requests", &p99[2], target(&p99[2]));
        tables.push(table);
    }
    drop(other);
    reuser.end().await;
    container.end().await;
    let container = serve(namespace, &ours, "").await;
    tables.push(memory(&container, &ours).await);
    container.end().await;
    Section::new("Answering HTTP requests", &intro(), &tables)
}

fn intro() -> String {
    format!(
        "A component that says hello (`test/guests/web.c`), in a container with default options beside `wasmtime serve -S cli` {} \
         with default options. Each request has an instance, and nothing is printed. A second container has `{REUSE}`. `wrk` asks on the same machine, for {SECONDS} s at a \
         time, with connections that are kept.",
        version_of_wasmtime(),
    )
}

fn address() -> String {
    format!("127.0.0.1:{}", http::free_port())
}

async fn listens(address: &str) {
    eventually("a server", LIMIT, async || Connection::open(address).await?.ask("/", b"").await.map(drop)).await;
}

async fn serve(namespace: &Namespace, address: &str, options: &str) -> Container {
    let program = Program::guest(namespace, WEB);
    let image = image::import(namespace, "web", |image| image.layer(program.layer("web.wasm")));
    let namespaces = json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]);
    let container = namespace.container(&image.name).env(&format!("PREWASI_HTTP_ADDRESS={address}"));
    let container = container.change(json!({ "linux": { "namespaces": namespaces } })).options(options);
    let mut container = container.create().await;
    container.start().await;
    listens(address).await;
    container
}

fn wasmtime_serve(address: &str) -> Child {
    let mut command = Command::new(home::part(WASMTIME));
    command.args(["serve", "-S", "cli", "--addr", address]).arg(guests::path(WEB));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("wasmtime runs")
}

fn wrk(address: &str, connections: u32) -> Load {
    let mut command = Command::new("wrk");
    command.args(["--latency", "--threads", "1", "--connections", &connections.to_string()]);
    command.args(["--duration", &SECONDS.to_string(), &format!("http://{address}/")]);
    let said = process::run(&mut command, LIMIT).success().stdout;
    let value = |name: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map(str::trim).unwrap_or_else(|| panic!("no {name} in {said}")).to_owned()
    };
    assert!(!said.contains("Non-2xx"), "{said}");
    let per_second = value("Requests/sec:").parse().expect("it is a number");
    Load { per_second, p50: time(&value("50%")), p99: time(&value("99%")) }
}

/// Parses a time in the notation of `wrk`.
fn time(text: &str) -> Duration {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let read = units.iter().find_map(|(unit, length)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * length));
    Duration::from_secs_f64(read.unwrap_or_else(|| panic!("{text:?} is no time")))
}

/// Sends many requests, and measures the memory in between.
async fn memory(container: &Container, address: &str) -> Table {
    let mut seen = Vec::new();
    let mut asked = 0;
    for requests in REQUESTS {
        let mut connections = Vec::new();
        for _ in 0..8 {
            connections.push(Connection::open(address).await.expect("a connection"));
        }
        while asked < requests {
            for connection in &mut connections {
                assert_eq!(connection.ask("/", b"").await.expect("an answer").status, 200);
                asked += 1;
            }
        }
        let mut samples = Samples::default();
        let processes = container.pids().await.expect("they are listed");
        samples.add_bytes(processes.iter().map(|process| proportional(process.pid)).sum::<u64>() << 10);
        seen.push(samples);
    }
    let mut table = Table::new("MiB");
    table.row(&format!("all processes (PSS), after {} requests", REQUESTS[0]), &seen[0], None);
    let target = Target::above(seen[1].median(), seen[0].median(), GROWTH, "MiB", " above");
    table.row(&format!("all processes (PSS), after {} requests", REQUESTS[1]), &seen[1], Some(target));
    table
}
