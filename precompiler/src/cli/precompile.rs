//! `precompile`: compiles images ahead of time, so that no container has to wait for it.

use std::io::Write;

use clap::{Args, Parser};
use indicatif::HumanBytes;
use prewasi_cache::{Digest, ImageRecord};
use prewasi_engines::{Engine, version_label};
use serde::Serialize;

use super::machine::TargetArgs;
use super::progress::Progress;
use super::{Status, StoreArgs, block_on, chain, hint, report};
use crate::{Content, ImageError, Origin, Precompiler, PrepareError, Ready};

/// Compile images ahead of time and keep the native code in the content store
#[derive(Debug, Args)]
pub struct Precompile {
    /// Images, by name or by the digest of their manifest or index
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    images: Vec<String>,
    /// All images of the namespace
    #[arg(long)]
    all: bool,
    /// Print one JSON document instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Native code for another machine was to go where only this one would look for it.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep native code for another machine in {store}: nobody there would run it")]
struct WrongStore {
    store: &'static str,
}

/// The same command where it stands alone, in a shim binary.
#[derive(Debug, Parser)]
#[command(name = "precompile")]
pub(super) struct Alone {
    #[command(flatten)]
    pub(super) command: Precompile,
}

/// What became of one image with one engine.
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
    /// Compiled by this call.
    Compiled { layer: Digest, artifact: Digest, bytes: u64, milliseconds: u128, peak_memory: u64 },
    /// There already.
    Cached { layer: Digest, artifact: Digest, bytes: u64 },
    /// Nothing to compile ahead of time.
    Skipped { reason: String },
    /// It failed.
    Failed { error: String },
}

impl Precompile {
    /// Runs the command with every engine that the binary was built with.
    pub fn execute(&self, engines: &[&dyn Engine]) -> Status {
        let others = match self.target.engines(engines) {
            Ok(others) => others,
            Err(error) => {
                report(&error, Some(&error.hint()));
                return Status::Usage;
            }
        };
        if others.is_some() && self.store.store.is_none() {
            report(&WrongStore { store: "containerd" }, Some("--store oci:PATH keeps it in an OCI image layout"));
            return Status::Usage;
        }
        let others: Option<Vec<&dyn Engine>> = others.as_ref().map(|others| others.iter().map(|e| &**e).collect());
        match block_on(self.run(others.as_deref().unwrap_or(engines))) {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => {
                report(&error, hint(&error));
                if error.is_input() { Status::Input } else { Status::Unexpected }
            }
            Err(error) => {
                report(&error, None);
                Status::Unexpected
            }
        }
    }

    async fn run(&self, engines: &[&dyn Engine]) -> Result<Status, PrepareError> {
        let precompiler = Precompiler::connect(self.store.settings()).await?;
        let records = self.records(&precompiler).await?;
        let mut status = Status::Done;
        let mut outcomes = Vec::new();
        let progress = Progress::new(records.len());
        for record in records {
            for engine in engines {
                progress.image(record.as_ref().map_or_else(|name| name.as_str(), |record| record.name.as_str()));
                let (outcomes_of_image, worst) = one(&precompiler, &record, *engine).await;
                status = worse(status, worst);
                for outcome in outcomes_of_image {
                    if !self.json {
                        progress.done(&outcome.to_string());
                    }
                    outcomes.push(outcome);
                }
            }
        }
        drop(progress);
        if self.json {
            print(&serde_json::json!({ "images": outcomes }).to_string());
        }
        Ok(status)
    }

    /// Finds the image records asked for; a name that is none stays in its place as the error it will be.
    async fn records(&self, precompiler: &Precompiler) -> Result<Vec<Result<ImageRecord, String>>, PrepareError> {
        let all = precompiler.store().images().await?;
        if self.all {
            return Ok(all.into_iter().map(Ok).collect());
        }
        Ok(self.images.iter().map(|wanted| find(&all, wanted).ok_or_else(|| wanted.clone())).collect())
    }
}

/// Finds an image by its name, by the short form of its name, or by the digest that it points to.
pub(super) fn find(records: &[ImageRecord], wanted: &str) -> Option<ImageRecord> {
    let candidates = [
        wanted.to_owned(),
        format!("{wanted}:latest"),
        format!("docker.io/{wanted}"),
        format!("docker.io/library/{wanted}"),
    ];
    candidates
        .iter()
        .chain(&[format!("docker.io/{wanted}:latest"), format!("docker.io/library/{wanted}:latest")])
        .find_map(|name| records.iter().find(|record| record.name == *name))
        .or_else(|| records.iter().find(|record| record.target.as_str() == wanted))
        .cloned()
}

/// Prepares every wasm layer of one image.
async fn one(
    precompiler: &Precompiler,
    record: &Result<ImageRecord, String>,
    engine: &dyn Engine,
) -> (Vec<Outcome>, Status) {
    let name = record.as_ref().map_or_else(Clone::clone, |record| record.name.clone());
    let outcome =
        |result| Outcome { image: name.clone(), engine: engine.name(), version: version_label(engine), result };
    let failed = |error: &PrepareError| {
        report(error, hint(error));
        let status = if error.is_input() { Status::Input } else { Status::Unexpected };
        (outcome(Fate::Failed { error: chain(error) }), status)
    };
    let image = match record {
        Ok(record) => precompiler.resolve_record(record).await,
        Err(name) => Err(ImageError::NotFound { image: name.clone() }),
    };
    let image = match image {
        Ok(image) => image,
        Err(error) => {
            let (outcome, status) = failed(&error.into());
            return (vec![outcome], status);
        }
    };
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
        match precompiler.prepare_layer(&image, layer, engine).await.and_then(|ready| stored(ready, &layer.digest)) {
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

/// An artifact that could not be stored is of no use to anybody here.
fn stored(ready: Ready, layer: &Digest) -> Result<Fate, PrepareError> {
    let Some(artifact) = ready.stored else {
        let source = std::io::Error::other("the content store failed, as the warning above says");
        return Err(PrepareError::Io { subject: format!("back the native code of layer {layer}"), source });
    };
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

/// Prints a line of the command's result.
pub(super) fn print(line: &str) {
    // Whoever reads us may have gone (`| head`); the work is done all the same.
    let _ = writeln!(std::io::stdout(), "{line}");
}
