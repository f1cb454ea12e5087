//! `make test-k8s`: runs the cases on a real Kubernetes, which has this machine as its only node.
//!
//! The program starts itself a second time in a cell of its own (`test/k8s/cell`): with processes, mounts and a network that no other
//! process sees, and that the kernel removes with the cell. There it starts the cluster, and each case has a namespace in it.

mod cases;
mod cluster;
mod images;
mod load;
mod space;
mod trials;

use std::process::{Command, ExitCode, Stdio};

use clap::{Parser, Subcommand};
use libtest_mimic::Arguments;
use prewasi_test::Series;
use prewasi_test::trial::{Need, obstacle};
use tempfile::TempDir;

/// The containerd whose CRI the kubelet speaks.
const SERIES: Series = Series::V1_7;

/// A real Kubernetes to test on
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the cases; the arguments are those of `cargo test`
    Test {
        /// Names of cases, and options of the test runner
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Do so in this cell
    #[command(hide = true)]
    Inside {
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let parse = |words: &[String]| Arguments::from_iter(std::iter::once("k8s test").chain(words.iter().map(|w| &**w)));
    match Args::parse().verb {
        Verb::Inside { arguments } => trials::run(&parse(&arguments)),
        Verb::Test { arguments } => {
            let parsed = parse(&arguments);
            let needs = [Need::Busybox, Need::Cni, Need::Runc, Need::Kubernetes];
            match obstacle(SERIES, "wasmtime", &needs) {
                Some(reason) => trials::skip(&parsed, &reason),
                None if parsed.list => trials::run(&parsed),
                None => run_in_cell(&arguments),
            }
        }
    }
}

/// Runs the cases in a cell, and waits for its end. The cell ends with this process.
fn run_in_cell(arguments: &[String]) -> ExitCode {
    let folder = TempDir::with_prefix_in("pwk8s", "/tmp").expect("/tmp is writable").keep();
    let program = std::env::current_exe().expect("the running program has a path");
    let mut cell = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/k8s/cell"));
    cell.arg(folder).arg(program).args(["inside", "--"]).args(arguments).stdin(Stdio::piped());
    // Ctrl-C must end this process; the cell then cleans up.
    std::os::unix::process::CommandExt::process_group(&mut cell, 0);
    let mut cell = cell.spawn().expect("the cell's script can be run");
    // The script reads its input to learn of this process's end.
    let input = cell.stdin.take();
    let status = cell.wait().expect("a child can be waited for");
    drop(input);
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
