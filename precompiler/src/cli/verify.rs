//! `verify`: checks every artifact, and repairs damage.

use clap::Args;
use prewasi_engines::Engine;
use serde::Serialize;

use super::ls::Row;
use super::progress::print;
use super::{Status, StoreArgs, conclude, find_image, table};
use crate::{Finding, Precompiler, PrepareError, Problem, Verification};

/// Check artifacts: their bytes, the engine's header, their labels, their references for the garbage collector
///
/// Exit code 1 if a fault remains.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Images whose artifacts to check [default: all]
    images: Vec<String>,
    /// Compile damaged artifacts again, set missing labels, remove labels without an artifact
    #[arg(long)]
    repair: bool,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// A finding in the JSON output.
#[derive(Serialize)]
struct Found<'a> {
    #[serde(flatten)]
    artifact: Row<'a>,
    #[serde(flatten)]
    problem: &'a Problem,
    repaired: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Verify {
    pub(super) fn execute(&self, engines: &[&dyn Engine]) -> Status {
        conclude(self.run(engines))
    }

    async fn run(&self, engines: &[&dyn Engine]) -> Result<Status, PrepareError> {
        let precompiler = Precompiler::connect(self.store.settings()?).await?;
        let mut images = Vec::new();
        for image in &self.images {
            images.push(find_image(&precompiler, image).await?.name);
        }
        let images = (!images.is_empty()).then_some(images.as_slice());
        let result = precompiler.verify(engines, images, self.repair).await?;
        if self.json {
            print_json(&result);
        } else {
            print_table(&result, self.repair);
        }
        Ok(if result.findings.iter().all(|finding| finding.repaired) { Status::Done } else { Status::Input })
    }
}

fn print_json(result: &Verification) {
    let found = |finding: &Finding| {
        serde_json::json!(Found {
            artifact: Row::from(&finding.entry),
            problem: &finding.problem,
            repaired: finding.repaired,
            error: finding.error.as_deref(),
        })
    };
    let findings: Vec<_> = result.findings.iter().map(found).collect();
    let document = serde_json::json!({ "checked": result.checked, "foreign": result.foreign, "findings": findings });
    print(&document.to_string());
}

fn print_table(result: &Verification, repair: bool) {
    if !result.findings.is_empty() {
        let rows = result.findings.iter().map(|finding| {
            let entry = &finding.entry;
            let version = entry.label.as_ref().map_or(&entry.key, |label| &label.version);
            let fate = match (&finding.error, finding.repaired) {
                (_, true) => "repaired".to_owned(),
                (Some(error), _) => format!("not repaired: {error}"),
                (None, _) if repair => "not repaired".to_owned(),
                (None, _) => "--repair would try".to_owned(),
            };
            [table::names(&entry.images), version.clone(), describe(&finding.problem), fate]
        });
        table::print(["IMAGE", "VERSION", "PROBLEM", "RESULT"], &[], rows.collect());
    }
    let repaired = result.findings.iter().filter(|finding| finding.repaired).count();
    let plural = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    print(&format!(
        "{} checked, {}, {repaired} repaired, {} left alone",
        plural(result.checked, "artifact"),
        plural(result.findings.len(), "problem"),
        plural(result.foreign, "foreign label")
    ));
}

fn describe(problem: &Problem) -> String {
    match problem {
        Problem::Dangling => "the label names a blob that is not there".to_owned(),
        Problem::Labels => "the artifact's own labels do not name its source and fingerprint".to_owned(),
        Problem::Corrupt { actual } => format!("its bytes hash to {actual}"),
        Problem::Header { reason } => format!("the engine refuses it: {reason}"),
        Problem::Unkept => "no label keeps it from the garbage collector".to_owned(),
        Problem::Unlinked => "no label leads to it".to_owned(),
    }
}
