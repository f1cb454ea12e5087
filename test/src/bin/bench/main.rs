//! `make bench`: takes measurements, prints tables, and writes them to `docs/benchmarks.md`.
//!
//! Machines are shared and noisy. Compared values are measured in the same run, in turns. The tables have the median and the spread, and
//! say whether a target is met. A slow result never fails a build.

mod compile;
mod engines;
mod http;
mod list;
mod many;
mod memory;
mod start;
mod subject;
mod table;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use prewasi_test::{Containerd, Namespace, Series};

use crate::table::Section;

/// Measure, and write the figures into the document
#[derive(Debug, Parser)]
struct Args {
    /// Names of the measurements [default: all]
    sections: Vec<Name>,
    #[command(flatten)]
    counts: Counts,
    /// File whose tables are replaced
    #[arg(long, default_value = "docs/benchmarks.md")]
    output: PathBuf,
}

/// How often each thing is measured.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Counts {
    /// Repetitions of a quick measurement
    #[arg(long, default_value_t = 21)]
    warm: usize,
    /// Repetitions of a measurement that includes a compile
    #[arg(long, default_value_t = 5)]
    cold: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Cold and warm starts beside runc
    Starts,
    /// Cold starts at once beside one
    Many,
    /// Compiling beside `wasmtime compile`
    Compile,
    /// Memory of a shim that compiled
    Memory,
    /// `prewasi ls` of many artifacts
    List,
    /// The engines side by side
    Engines,
    /// Answering HTTP beside `wasmtime serve`
    Http,
}

impl Name {
    /// Takes the measurements under a fresh containerd.
    async fn measure(self, counts: Counts) -> Section {
        let daemon = Arc::new(Containerd::start(Series::V2_1).await);
        let namespace = Namespace::create(daemon).await;
        match self {
            Self::Starts => start::measure(&namespace, counts).await,
            Self::Many => many::measure(&namespace, counts).await,
            Self::Compile => compile::measure(&namespace, counts).await,
            Self::Memory => memory::measure(&namespace, counts).await,
            Self::List => list::measure(&namespace, counts).await,
            Self::Engines => engines::measure(&namespace, counts).await,
            Self::Http => http::measure(&namespace, counts).await,
        }
    }
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let names = if args.sections.is_empty() { Name::value_variants() } else { &args.sections };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for name in names {
        let section = runtime.block_on(name.measure(args.counts));
        print(&section);
        // One after the other, so that earlier results are kept if a later section fails.
        table::replace(&args.output, &section)?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
fn print(section: &Section) {
    println!("{}", section.markdown());
}
