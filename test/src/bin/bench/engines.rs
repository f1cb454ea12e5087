//! Compares the engines: starts, memory of pods, compiling.

use std::fs;

use prewasi_test::guests;
use prewasi_test::home;
use prewasi_test::image::SOLVER;
use prewasi_test::{Container, Namespace};

use crate::Counts;
use crate::memory::field;
use crate::subject::Subject;
use crate::table::{Samples, Section, Table};

/// All engines; those that have not been built are left out.
const ENGINES: [&str; 4] = ["wasmtime", "wasmer", "wasmedge", "wamr"];
/// A program that an engine is not measured with: the compile needs more memory than the default limit.
const TOO_BIG: (&str, &str) = ("wasmedge", "big");
/// Number of pods of one image that run at the same time.
const PODS: usize = 10;

/// The measurements of one engine with one program.
#[derive(Default)]
struct Figures {
    cold: Samples,
    warm: Samples,
    pod: Samples,
    compile: Samples,
    artifact: Samples,
}

/// Takes the measurements in turns.
pub(crate) async fn measure(namespace: &Namespace, counts: Counts) -> Section {
    let there = |engine: &&str| home::program(&format!("containerd-shim-{engine}-v1")).exists();
    let engines: Vec<&str> = ENGINES.into_iter().filter(there).collect();
    let subjects = [
        (Subject::new(namespace, "tiny", &guests::path(guests::DEMO), &["echo"]), &[][..], "tick 1\n"),
        (Subject::new(namespace, "solver", &home::part(SOLVER), &["--version"]), &["-v"][..], "[btor>main] Boolector"),
        (Subject::big(namespace), &[][..], "yosys> "),
    ];
    let measured = |engine: &str, subject: &Subject| (engine, subject.name) != TOO_BIG;
    let mut figures: Vec<Vec<Figures>> = Vec::new();
    for (subject, waiting, prints) in &subjects {
        let mut rows: Vec<Figures> = engines.iter().map(|_| Figures::default()).collect();
        for round in 0..counts.cold {
            for (engine, row) in engines.iter().zip(&mut rows).filter(|(engine, _)| measured(engine, subject)) {
                let namespace = namespace.clone().with_engine(engine);
                subject.import_anew(&namespace).await;
                row.cold.add_time(subject.time(&namespace));
                if round == 0 {
                    row.artifact = artifact(&namespace, subject);
                    row.pod = pods(&namespace, subject, waiting, prints).await;
                }
            }
        }
        // The first start of each is not counted: it warms the caches.
        for engine in engines.iter().filter(|engine| measured(engine, subject)) {
            subject.time(&namespace.clone().with_engine(engine));
        }
        for _ in 0..counts.warm {
            for (engine, row) in engines.iter().zip(&mut rows).filter(|(engine, _)| measured(engine, subject)) {
                row.warm.add_time(subject.time(&namespace.clone().with_engine(engine)));
            }
        }
        for compile in namespace.daemon().journal().compiles(&subject.program.digest) {
            if let Some(at) = engines.iter().position(|engine| *engine == compile.engine) {
                rows[at].compile.add(compile.seconds * 1000.0);
            }
        }
        figures.push(rows);
    }
    section(&engines, subjects.each_ref().map(|(subject, ..)| subject), &figures)
}

fn section(engines: &[&str], subjects: [&Subject; 3], figures: &[Vec<Figures>]) -> Section {
    let (mut time, mut space) = (Table::new("ms"), Table::new("MiB"));
    for (subject, rows) in subjects.iter().zip(figures) {
        for (engine, row) in engines.iter().zip(rows).filter(|(_, row)| !row.warm.is_empty()) {
            let name = |what: &str| format!("{engine}, {}, {what}", subject.name);
            time.row(&name("cold"), &row.cold, None);
            time.row(&name("warm"), &row.warm, None);
            if !row.compile.is_empty() {
                time.row(&name("compiling"), &row.compile, None);
                space.row(&name("native code"), &row.artifact, None);
            }
            space.row(&name("a pod"), &row.pod, None);
        }
    }
    let [tiny, solver, big] = subjects.map(Subject::size);
    let intro = format!(
        "{tiny}, {solver} and {big}. For big, WasmEdge's compiler needs more memory than a compile may take by default. *Cold* and *warm* are `ctr run --rm` as a whole; with an engine that interprets, each start is the same. \
         *Compiling* is the worker, sandbox and all. *A pod* is the memory of all its processes while {PODS} pods of that \
         image run. This is `Pss`: of pages that several processes share, each has its part."
    );
    Section::new("Engines", &intro, &[time, space])
}

/// Returns the size of the native code that a start with the namespace's engine maps.
fn artifact(namespace: &Namespace, subject: &Subject) -> Samples {
    let listed = namespace.prewasi("ls", &["--json"]).success().stdout;
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("a document");
    let mut samples = Samples::default();
    let rows = listed.as_array().or_else(|| listed["artifacts"].as_array()).expect("a list of artifacts");
    let ours = rows.iter().filter(|row| {
        row["layer"] == subject.program.digest.as_str()
            && row["engine"] == namespace.engine()
            && row["state"] == "current"
    });
    ours.filter_map(|row| row["bytes"].as_u64()).for_each(|bytes| samples.add_bytes(bytes));
    samples
}

/// Runs pods and returns the memory of each.
async fn pods(namespace: &Namespace, subject: &Subject, args: &[&str], prints: &str) -> Samples {
    let mut pods = Vec::new();
    for _ in 0..PODS {
        let mut pod = namespace.container(&subject.image()).args(args).stdin().create().await;
        pod.start().await;
        pod.prints(prints).await;
        pods.push(pod);
    }
    let mut samples = Samples::default();
    pods.iter().for_each(|pod| samples.add_bytes(memory(pod)));
    for pod in pods {
        pod.end().await;
    }
    samples
}

/// Returns the memory of the container's processes and its shim.
fn memory(pod: &Container) -> u64 {
    let shim = u32::try_from(field(pod.pid(), "PPid:")).expect("it is a process id");
    let folder = fs::read_dir("/proc").expect("it is there").filter_map(Result::ok);
    let all = folder.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = all.filter(|pid| *pid == shim || *pid == pod.pid() || parent(*pid) == Some(shim));
    ours.map(proportional).sum::<u64>() << 10
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

/// Returns the proportional set size of a process, in KiB.
pub(crate) fn proportional(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let value = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok());
    value.unwrap_or_default()
}
