//! `ls`: lists artifacts.

use clap::Args;
use prewasi_cache::Digest;
use prewasi_engines::Engine;
use serde::Serialize;

use super::progress::print;
use super::{Status, StoreArgs, conclude, table};
use crate::{Entry, Precompiler, PrepareError, State};

/// List the artifacts of the content store
///
/// States: current (a start uses it), superseded (of another version of the engine), elsewhere (compiled for another
/// machine), dangling (a label without its artifact), foreign (a label of another program: kept, never trusted).
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// An artifact in the JSON output.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    images: &'a [String],
    engine: Option<&'a str>,
    version: Option<&'a str>,
    state: State,
    artifact: Option<&'a Digest>,
    bytes: Option<u64>,
    created: Option<String>,
    layer: &'a Digest,
    source: Option<&'a Digest>,
    label: &'a str,
}

impl<'a> From<&'a Entry> for Row<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self {
            images: &entry.images,
            engine: entry.label.as_ref().map(|label| label.engine.as_str()),
            version: entry.label.as_ref().map(|label| label.version.as_str()),
            state: entry.state,
            artifact: entry.artifact.as_ref(),
            bytes: entry.size,
            created: entry.created.and_then(|time| jiff::Timestamp::try_from(time).ok()).map(|time| time.to_string()),
            layer: &entry.anchor,
            source: entry.source.as_ref(),
            label: &entry.key,
        }
    }
}

impl Ls {
    pub(super) fn execute(&self, engines: &[&dyn Engine]) -> Status {
        conclude(self.run(engines))
    }

    async fn run(&self, engines: &[&dyn Engine]) -> Result<Status, PrepareError> {
        let precompiler = Precompiler::connect(self.store.settings()?).await?;
        let inventory = precompiler.inventory(engines).await?;
        if self.json {
            let rows: Vec<Row<'_>> = inventory.entries.iter().map(Row::from).collect();
            print(&serde_json::json!({ "artifacts": rows }).to_string());
        } else {
            list(&inventory.entries);
        }
        Ok(Status::Done)
    }
}

/// Prints artifacts as a table.
pub(super) fn list(entries: &[Entry]) {
    let rows = entries.iter().map(|entry| {
        let (engine, version) = match &entry.label {
            Some(label) => (label.engine.clone(), label.version.clone()),
            None => ("-".to_owned(), entry.key.clone()),
        };
        [
            table::names(&entry.images),
            engine,
            version,
            word(entry.state).to_owned(),
            table::bytes(entry.size),
            table::age(entry.created),
            entry.artifact.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        ]
    });
    let heading = ["IMAGE", "ENGINE", "VERSION", "STATE", "SIZE", "AGE", "ARTIFACT"];
    table::print(heading, &[4, 5], rows.collect());
}

fn word(state: State) -> &'static str {
    match state {
        State::Current => "current",
        State::Superseded => "superseded",
        State::Tuned => "tuned",
        State::Elsewhere => "elsewhere",
        State::Dangling => "dangling",
        State::Foreign => "foreign",
    }
}
