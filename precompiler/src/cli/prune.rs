//! `prune`: removes artifacts of versions that no start of this binary looks for.

use std::time::Duration;

use clap::Args;
use indicatif::HumanBytes;
use prewasi_engines::Engine;

use super::ls::{Row, list};
use super::progress::print;
use super::{Status, StoreArgs, conclude};
use crate::options::duration;
use crate::{Precompiler, PrepareError, PrunePolicy, Pruned};

/// Remove superseded artifacts
///
/// The newest one of each program stays by default, so that a rollback of the engine finds its code. Current artifacts and
/// foreign labels always stay.
#[derive(Debug, Args)]
pub(super) struct Prune {
    /// Keep the newest N superseded artifacts of each program and engine
    #[arg(long, default_value_t = 1, value_name = "N")]
    keep: usize,
    /// Keep artifacts younger than this: a number with s, m, h, d or w
    #[arg(long, value_name = "AGE", value_parser = age, default_value = "0s")]
    older_than: Duration,
    /// Print the artifacts to remove, and remove none
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

impl Prune {
    pub(super) fn execute(&self, engines: &[&dyn Engine]) -> Status {
        conclude(self.run(engines))
    }

    async fn run(&self, engines: &[&dyn Engine]) -> Result<Status, PrepareError> {
        let precompiler = Precompiler::connect(self.store.settings()?).await?;
        let policy = PrunePolicy { keep: self.keep, older_than: self.older_than };
        let Pruned { entries, freed } = precompiler.prune(engines, policy, self.dry_run).await?;
        if self.json {
            let rows: Vec<Row<'_>> = entries.iter().map(Row::from).collect();
            let document = serde_json::json!({ "dry_run": self.dry_run, "removed": rows, "bytes_freed": freed });
            print(&document.to_string());
            return Ok(Status::Done);
        }
        if !entries.is_empty() {
            list(&entries);
        }
        let (would, count) = (if self.dry_run { "would be " } else { "" }, entries.len());
        let artifacts = if count == 1 { "artifact" } else { "artifacts" };
        print(&format!("{count} {artifacts} {would}removed, {} {would}freed", HumanBytes(freed)));
        Ok(Status::Done)
    }
}

/// Parses an age.
fn age(text: &str) -> Result<Duration, String> {
    duration(text).ok_or_else(|| "expected a whole number with s, m, h, d or w, such as 30d".to_owned())
}
