//! `precompile`: compiles images ahead of time, so that no container has to wait for a compile.

use std::collections::BTreeSet;
use std::io::Write;
use std::num::NonZeroU16;

use clap::Args;
use futures_util::stream::{self, StreamExt as _};
use indicatif::HumanBytes;
use prewasi_cache::ImageRecord;
use prewasi_engines::{Engine, Machine, version_label};
use prewasi_oci::{Digest, Platform};
use serde::Serialize;

use super::progress::{Progress, print};
use super::tuning::{ConfigArgs, MachineArgs, is_another_machine};
use super::{Status, StoreArgs, conclude, hint};
use crate::image::find;
use crate::{Content, ImageError, Options, Origin, Precompiler, PrepareError, Ready, Settings, chain, report};

/// Compile images ahead of time and keep the native code in the content store
#[derive(Debug, Args)]
pub struct Precompile {
    /// Images, by name or by the digest of their manifest or index
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    images: Vec<String>,
    /// All images of the namespace
    #[arg(long)]
    all: bool,
    /// Compile for this platform of an image, e.g. wasip1/wasm, instead of the platform that a start takes
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Compile with this engine only; may be repeated
    #[arg(long, value_name = "NAME")]
    engine: Vec<String>,
    /// Number of images to compile at a time [default: the number of cores]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroU16>,
    /// Print one JSON document instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Native code for another machine would be stored where only this machine looks for it.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep native code for another machine in {store}: no engine there can run it")]
struct WrongStore {
    store: &'static str,
}

/// The result of one image with one engine.
#[derive(Debug, Serialize)]
struct Outcome {
    image: String,
    engine: &'static str,
    version: String,
    #[serde(flatten)]
    result: Fate,
}

#[derive(Debug, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
enum Fate {
    /// This call has compiled it.
    Compiled { layer: Digest, artifact: Digest, bytes: u64, milliseconds: u128, peak_memory: u64 },
    /// It was there already.
    Cached { layer: Digest, artifact: Digest, bytes: u64 },
    /// There is nothing to compile ahead of time.
    Skipped { reason: String },
    /// The compile or the store failed.
    Failed { error: String },
}

impl Precompile {
    /// Runs the command with the named engines, or with every engine of the binary.
    pub fn execute(&self, engines: &[&dyn Engine]) -> Status {
        let chosen = match chosen(engines, &self.engine) {
            Ok(chosen) => chosen,
            Err(error) => {
                let names: Vec<_> = engines.iter().map(|engine| engine.name()).collect();
                report(&error, Some(&format!("this program has: {}", names.join(", "))));
                return Status::Usage;
            }
        };
        let is_another = match is_another_machine(&chosen, &self.machine.machine()) {
            Ok(is_another) => is_another,
            Err(error) => {
                report(&error, error.hint().as_deref());
                return Status::Usage;
            }
        };
        if is_another && self.store.store.is_none() {
            report(&WrongStore { store: "containerd" }, Some("--store oci:PATH keeps it in an OCI image layout"));
            return Status::Usage;
        }
        conclude(self.run(&chosen))
    }

    async fn run(&self, engines: &[&dyn Engine]) -> Result<Status, PrepareError> {
        let settings = Settings { platform: self.platform.clone(), ..self.store.settings()? };
        let jobs = self.jobs.map_or(settings.compile.slots, |jobs| jobs.get().into());
        let precompiler = Precompiler::connect(settings).await?;
        let records = self.records(&precompiler).await?;
        if records.is_empty() {
            let _ = writeln!(std::io::stderr(), "no images in {}", precompiler.store().describe());
        }
        let (options, machine) = (self.config.options()?, self.machine.machine());
        let ways = || engines.iter().flat_map(|engine| options.iter().map(move |options| (*engine, options)));
        let progress = Progress::new(records.len() * ways().count());
        let work = records.iter().flat_map(|record| ways().map(move |way| (record, way)));
        let (precompiler, machine, shown) = (&precompiler, &machine, &progress);
        let work = work.enumerate().map(|(number, (record, (engine, options)))| async move {
            shown.image(name_of(record));
            let (outcomes, status) = one(precompiler, record, engine, machine, options).await;
            shown.done(outcomes.iter().filter(|_| !self.json).map(ToString::to_string));
            (number, outcomes, status)
        });
        // Results come in the order of their ends: no image waits for a slow one.
        let mut done: Vec<_> = stream::iter(work).buffer_unordered(jobs.max(1)).collect().await;
        done.sort_by_key(|(number, ..)| *number);
        drop(progress);
        let status = done.iter().map(|(.., status)| *status).fold(Status::Done, worse);
        let outcomes: Vec<Outcome> = done.into_iter().flat_map(|(_, outcomes, _)| outcomes).collect();
        if self.json {
            print(&serde_json::json!({ "images": outcomes }).to_string());
        }
        summarize(&outcomes, records.len());
        Ok(status)
    }

    /// Finds the requested image records; an unknown name stays in its place, as an error.
    async fn records(&self, precompiler: &Precompiler) -> Result<Vec<Result<ImageRecord, String>>, PrepareError> {
        let all = precompiler.store().images().await?;
        if self.all {
            return Ok(all.into_iter().map(Ok).collect());
        }
        Ok(self.images.iter().map(|wanted| find(&all, wanted).ok_or_else(|| wanted.clone())).collect())
    }
}

/// The program was built without a requested engine.
#[derive(Debug, thiserror::Error)]
#[error("cannot compile with {name:?}: there is no such engine in this program")]
struct UnknownEngine {
    name: String,
}

/// Picks engines by name; all of them without a name.
fn chosen<'a>(engines: &[&'a dyn Engine], names: &[String]) -> Result<Vec<&'a dyn Engine>, UnknownEngine> {
    if let Some(name) = names.iter().find(|name| engines.iter().all(|engine| engine.name() != name.as_str())) {
        return Err(UnknownEngine { name: name.clone() });
    }
    let wanted = |engine: &&&dyn Engine| names.is_empty() || names.iter().any(|name| name == engine.name());
    Ok(engines.iter().filter(wanted).copied().collect())
}

/// Lists the failed images at the end: the lines about them may have scrolled away.
fn summarize(outcomes: &[Outcome], images: usize) {
    let failed = outcomes.iter().filter(|outcome| matches!(outcome.result, Fate::Failed { .. }));
    let names: BTreeSet<&str> = failed.map(|outcome| outcome.image.as_str()).collect();
    if !names.is_empty() {
        let list = names.iter().copied().collect::<Vec<_>>().join(", ");
        // Without standard error there is no way to report it.
        let _ = writeln!(std::io::stderr(), "failed: {} of {images} images: {list}", names.len());
    }
}

fn name_of(record: &Result<ImageRecord, String>) -> &str {
    record.as_ref().map_or_else(|name| name.as_str(), |record| record.name.as_str())
}

/// Prepares every wasm layer of one image.
async fn one(
    precompiler: &Precompiler,
    record: &Result<ImageRecord, String>,
    engine: &dyn Engine,
    machine: &Machine,
    options: &Options,
) -> (Vec<Outcome>, Status) {
    let outcome_of = |engine: &dyn Engine, result| Outcome {
        image: name_of(record).to_owned(),
        engine: engine.name(),
        version: version_label(engine),
        result,
    };
    let failure = |engine: &dyn Engine, error: &PrepareError| {
        report(error, hint(error));
        let status = if error.is_input() { Status::Input } else { Status::Unexpected };
        (outcome_of(engine, Fate::Failed { error: chain(error) }), status)
    };
    let image = match record {
        Ok(record) => precompiler.resolve_record(record).await,
        Err(name) => Err(ImageError::NotFound { image: name.clone() }),
    };
    let tuned = image.map_err(PrepareError::from).and_then(|image| {
        let (engine, _) = options.tuned(engine, Some(&image), machine.clone(), None)?;
        Ok((engine, image))
    });
    let (engine, image) = match &tuned {
        Ok((engine, image)) => (&**engine, image),
        Err(error) => {
            let (outcome, status) = failure(engine, error);
            return (vec![outcome], status);
        }
    };
    let outcome = |result| outcome_of(engine, result);
    let failed = |error: &PrepareError| failure(engine, error);
    let layers = match &image.content {
        Content::Wasm(_) if !engine.compiles() => {
            let reason = format!("{} runs wasm as it is", engine.name());
            return (vec![outcome(Fate::Skipped { reason })], Status::Done);
        }
        Content::Wasm(layers) => layers,
        Content::Files { platform } => {
            let reason = format!("no wasm layer ({platform})");
            return (vec![outcome(Fate::Skipped { reason })], Status::Done);
        }
    };
    let mut worst = Status::Done;
    let mut outcomes = Vec::new();
    for layer in layers {
        match precompiler.prepare_layer(image, layer, engine).await.and_then(|ready| stored(ready, &layer.digest)) {
            Ok(result) => outcomes.push(outcome(result)),
            Err(error) => {
                let (outcome, status) = failed(&error);
                outcomes.push(outcome);
                worst = worse(worst, status);
            }
        }
    }
    (outcomes, worst)
}

/// Refuses an artifact that could not be stored: this command's purpose is the store.
fn stored(ready: Ready, layer: &Digest) -> Result<Fate, PrepareError> {
    let artifact = ready.stored.ok_or_else(|| PrepareError::unstored(layer))?;
    let (layer, bytes) = (layer.clone(), ready.size);
    Ok(match ready.origin {
        Origin::Compiled { elapsed, peak_memory } => {
            Fate::Compiled { layer, artifact, bytes, milliseconds: elapsed.as_millis(), peak_memory }
        }
        Origin::Cached | Origin::Awaited => Fate::Cached { layer, artifact, bytes },
    })
}

fn worse(a: Status, b: Status) -> Status {
    if a == Status::Unexpected || b == Status::Done { a } else { b }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { image, engine, version, result } = self;
        match result {
            Fate::Compiled { artifact, bytes, milliseconds, .. } => {
                let seconds = *milliseconds as f64 / 1000.0;
                write!(
                    f,
                    "{image}: compiled for {engine} {version} in {seconds:.1} s, {}, {artifact}",
                    HumanBytes(*bytes)
                )
            }
            Fate::Cached { artifact, bytes, .. } => {
                write!(f, "{image}: already compiled for {engine} {version}, {}, {artifact}", HumanBytes(*bytes))
            }
            Fate::Skipped { reason } => write!(f, "{image}: nothing to compile for {engine}: {reason}"),
            Fate::Failed { .. } => write!(f, "{image}: failed for {engine} {version}"),
        }
    }
}
