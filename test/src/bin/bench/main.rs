//! `make bench`: measures, prints tables, and puts them into `docs/benchmarks.md`.
//!
//! Machines are shared and noisy. What is compared is measured in the same run, in turns; the tables give the median and
//! the spread, and nothing here ever fails a build for being slow.

mod start;
mod table;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use prewasi_test::{Containerd, Namespace, Series};

/// Measure starts beside runc, in the same run.
#[derive(Debug, Parser)]
struct Args {
    /// How often each warm start is measured
    #[arg(long, default_value_t = 21)]
    warm: usize,
    /// How often each cold start is measured
    #[arg(long, default_value_t = 5)]
    cold: usize,
    /// File whose tables are replaced
    #[arg(long, default_value = "docs/benchmarks.md")]
    output: PathBuf,
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut tables = Vec::new();
    runtime.block_on(async {
        let daemon = Arc::new(Containerd::start(Series::V2_1).await);
        let namespace = Namespace::create(daemon).await;
        tables.push(start::measure(&namespace, args.warm, args.cold).await);
        namespace.clear().await;
    });
    let text = tables.join("\n");
    println_all(&text);
    table::replace(&args.output, &text)
}

#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
fn println_all(text: &str) {
    println!("{text}");
}
