//! `prune`: removes artifacts of versions that no start of this binary looks for.

use std::time::Duration;

use clap::Args;
use indicatif::HumanBytes;
use prewasi_engines::Engine;

use super::ls::{Row, list};
use super::precompile::print;
use super::{Status, StoreArgs, conclude};
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
    /// Keep what is younger: a number with s, m, h, d or w
    #[arg(long, value_name = "AGE", value_parser = age, default_value = "0s")]
    older_than: Duration,
    /// Say what would be removed, and remove nothing
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
        let precompiler = Precompiler::connect(self.store.settings()).await?;
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

/// Reads an age: a whole number and a unit.
fn age(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number with s, m, h, d or w, such as 30d".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ages are whole numbers with a unit, and nothing else.
    #[test]
    fn ages() {
        assert_eq!(age("0s"), Ok(Duration::ZERO));
        assert_eq!(age("36h"), Ok(Duration::from_secs(36 * 3_600)));
        assert_eq!(age("2w"), Ok(Duration::from_secs(14 * 86_400)));
        for wrong in ["", "d", "30", "-1d", "1.5h", "1 d", "30ü", "99999999999999999999d", "18446744073709551615w"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }
}
