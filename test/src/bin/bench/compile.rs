//! Measures compiles, compared to `wasmtime compile` of the same version with the same options.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Duration;

use prewasi_test::Namespace;
use prewasi_test::home;
use prewasi_test::process::{self, Output};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::Counts;
use crate::subject::Subject;
use crate::table::{Samples, Section, Table, Target};

/// Allowed factors of the compile's time and memory.
const TIME_FACTOR: f64 = 1.05;
const MEMORY_FACTOR: f64 = 1.1;

/// Path of the program that `test/setup bench` installs.
pub(crate) const WASMTIME: &str = "wasmtime-cli/bin/wasmtime";
const LIMIT: Duration = Duration::from_secs(600);

/// Takes the measurements in turns.
pub(crate) async fn measure(namespace: &Namespace, counts: Counts) -> Section {
    let big = Subject::big(namespace);
    let wasm = namespace.folder().join("big.wasm");
    fs::write(&wasm, &big.program.bytes).expect("the folder is ours");
    let mut theirs = [Samples::default(), Samples::default()];
    let (mut whole, mut worker, mut memory) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..counts.cold {
        let output = wasmtime(&wasm.to_string_lossy());
        theirs[0].add_time(output.elapsed);
        theirs[1].add_bytes(output.peak_memory);
        big.import_anew(namespace).await;
        whole.add_time(namespace.prewasi("precompile", &[&big.image()]).success().elapsed);
        let compiles = namespace.daemon().journal().compiles(&big.program.digest);
        let compile = compiles.last().expect("it has just been compiled");
        worker.add_time(Duration::from_secs_f64(compile.seconds));
        memory.add_bytes(compile.peak_memory);
    }
    let time_target = Target::factor(worker.median(), theirs[0].median(), TIME_FACTOR, " `wasmtime compile`");
    let memory_target = Target::factor(memory.median(), theirs[1].median(), MEMORY_FACTOR, " `wasmtime compile`");
    let mut time = Table::new("ms");
    time.row("`wasmtime compile`", &theirs[0], None);
    time.row("the compile worker, sandbox and all", &worker, Some(time_target));
    time.row("`prewasi precompile` as a whole: verify the layer, compile, store, verify", &whole, None);
    let mut space = Table::new("MiB");
    space.row("`wasmtime compile`, peak resident memory", &theirs[1], None);
    space.row("the compile worker, peak resident memory", &memory, Some(memory_target));
    Section::new("Compiling", &intro(&big), &[time, space])
}

fn intro(big: &Subject) -> String {
    format!(
        "The module {}, by `wasmtime compile` {} and by prewasi. Both have the priority that prewasi gives to its compiles \
         (nice 10), and write to a memfd. They are measured from the start to the end of the process; the kernel reports the \
         memory. Where the options of wasmtime's program differ from prewasi's, it gets prewasi's: no native unwind tables, no \
         symbols, the copying collector, no component-model concurrency. prewasi's worker builds its sandbox and checks \
         the module's imports within the time that is counted.",
        big.size(),
        version_of_wasmtime(),
    )
}

pub(crate) fn version_of_wasmtime() -> String {
    let output = process::run(Command::new(home::part(WASMTIME)).arg("--version"), LIMIT).success();
    output.stdout.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

fn wasmtime(wasm: &str) -> Output {
    let memfd = File::from(memfd_create("artifact", MemfdFlags::CLOEXEC).expect("a memfd can be had"));
    let mut command = Command::new("nice");
    command.args(["-n", "10"]).arg(home::part(WASMTIME)).arg("compile");
    command.args(["-C", "native-unwind-info=n,collector=copying", "-D", "symbols=n", "-W", "concurrency-support=n"]);
    command.args(["-o", "/dev/stdout", wasm]).stdout(Stdio::from(memfd));
    process::run_into(&mut command, LIMIT).success()
}
