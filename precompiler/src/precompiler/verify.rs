//! Checks every artifact to the last byte, and repairs it if possible.
//!
//! A repair counts only after a new check of everything. Labels of other programs are counted and left alone. An artifact that this
//! binary cannot compile again (of another version, of a file inside an image) is removed instead: the next start compiles it.

use prewasi_cache::{Digest, Lookup, StoreError};
use prewasi_engines::{Engine, LoadError, version_label};
use serde::Serialize;

use super::{Origin, Precompiler, Ready, Source, trust};
use crate::{Content, Entry, Inventory, PrepareError, State, StoreAddress};

/// A defect of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    /// The label names no blob.
    Dangling,
    /// The artifact's own labels do not name its source and fingerprint.
    Labels,
    /// Its bytes do not match its digest.
    Corrupt {
        /// Digest of the bytes.
        actual: Digest,
    },
    /// The engine's own check of the artifact fails.
    Header {
        /// The reason.
        reason: String,
    },
    /// The label that keeps it from the garbage collector is missing.
    Unkept,
    /// The label that names it is missing.
    Unlinked,
}

/// A defect, and the result of its repair.
#[derive(Debug)]
pub struct Finding {
    /// The artifact.
    pub entry: Entry,
    /// The defect.
    pub problem: Problem,
    /// The defect is repaired, confirmed by a new check.
    pub repaired: bool,
    /// The error of the repair, if it was tried and reported one.
    pub error: Option<String>,
}

/// The result of a verification.
#[derive(Debug, Default)]
pub struct Verification {
    /// Number of checked artifacts.
    pub checked: usize,
    /// Number of labels of other programs.
    pub foreign: usize,
    /// The defects.
    pub findings: Vec<Finding>,
}

impl Precompiler {
    /// Checks the artifacts of these images, or all of the store; with `repair`, repairs.
    ///
    /// # Errors
    /// Those of the store. A repair that fails is a finding.
    pub async fn verify(
        &self,
        engines: &[&dyn Engine],
        images: Option<&[String]>,
        repair: bool,
    ) -> Result<Verification, StoreError> {
        let inventory = self.inventory(engines).await?;
        let mut result = self.check_all(&inventory, engines, images).await?;
        if !repair || result.findings.is_empty() {
            return Ok(result);
        }
        for finding in &mut result.findings {
            let repaired = self.repair(&inventory, &finding.entry, &finding.problem, engines).await;
            finding.error = repaired.err().map(|error| crate::chain(&error));
        }
        let after = self.check_all(&self.inventory(engines).await?, engines, images).await?;
        for finding in &mut result.findings {
            let same = |other: &Finding| {
                (&other.entry.anchor, &other.entry.key) == (&finding.entry.anchor, &finding.entry.key)
            };
            finding.repaired = !after.findings.iter().any(same);
        }
        Ok(result)
    }

    async fn check_all(
        &self,
        inventory: &Inventory,
        engines: &[&dyn Engine],
        images: Option<&[String]>,
    ) -> Result<Verification, StoreError> {
        let mut result = Verification::default();
        let wanted = |entry: &&Entry| images.is_none_or(|names| entry.images.iter().any(|name| names.contains(name)));
        for entry in inventory.entries.iter().filter(wanted) {
            let engine = current(entry, engines);
            if entry.state == State::Foreign && engine.is_none() {
                result.foreign += 1;
                continue;
            }
            result.checked += 1;
            for problem in self.check_entry(entry, engine).await? {
                result.findings.push(Finding { entry: entry.clone(), problem, repaired: false, error: None });
            }
        }
        Ok(result)
    }

    async fn check_entry(&self, entry: &Entry, engine: Option<&dyn Engine>) -> Result<Vec<Problem>, StoreError> {
        let Some(artifact) = &entry.artifact else { return Ok(vec![Problem::Dangling]) };
        match entry.state {
            State::Dangling => return Ok(vec![Problem::Dangling]),
            State::Foreign => return Ok(vec![Problem::Labels]),
            State::Current | State::Tuned | State::Superseded | State::Elsewhere => {}
        }
        let mut problems = Vec::new();
        // Not by its stamp: a disk that loses bits changes no time stamp.
        let blob = match self.store.open(artifact).await {
            Err(StoreError::NotFound { .. }) => return Ok(vec![Problem::Dangling]),
            answer => answer?,
        };
        let io = |source| StoreError::Io { action: "hash", subject: format!("blob {artifact}"), source };
        let actual = Digest::of_file(&blob.file, blob.size).map_err(io)?;
        if actual != *artifact {
            problems.push(Problem::Corrupt { actual });
        } else if let Some(engine) = engine {
            problems.extend(self.check_header(entry, engine).await?);
        }
        problems.extend((!entry.is_kept).then_some(Problem::Unkept));
        problems.extend((!entry.is_linked).then_some(Problem::Unlinked));
        Ok(problems)
    }

    /// Lets the engine check an artifact of its own version, as a start would.
    async fn check_header(&self, entry: &Entry, engine: &dyn Engine) -> Result<Option<Problem>, StoreError> {
        // The labels of a layout come from its author: its code is not loaded on their word.
        let Some(source) =
            entry.source.clone().filter(|_| matches!(self.settings.store, StoreAddress::Containerd { .. }))
        else {
            return Ok(None);
        };
        let key = prewasi_cache::ArtifactKey {
            source,
            anchor: entry.anchor.clone(),
            engine: engine.name().to_owned(),
            version: version_label(engine),
            fingerprint: engine.fingerprint().hex().to_owned(),
        };
        let Lookup::Hit(artifact) = self.cache.lookup(&key).await? else { return Ok(None) };
        match engine.load(trust(Ready::stored(artifact, Origin::Cached))) {
            Err(LoadError::Incompatible { reason }) => Ok(Some(Problem::Header { reason })),
            Err(error) => Ok(Some(Problem::Header { reason: error.to_string() })),
            Ok(_) => Ok(None),
        }
    }

    async fn repair(
        &self,
        inventory: &Inventory,
        entry: &Entry,
        problem: &Problem,
        engines: &[&dyn Engine],
    ) -> Result<(), PrepareError> {
        let Some(label) = &entry.label else { return Ok(()) };
        match (problem, &entry.artifact) {
            (Problem::Unkept, Some(artifact)) => {
                Ok(self.store.set_label(&entry.anchor, &label.keeping(), artifact.as_str()).await?)
            }
            (Problem::Unlinked, Some(artifact)) => {
                Ok(self.store.set_label(&entry.anchor, &label.leading(), artifact.as_str()).await?)
            }
            (Problem::Dangling, _) | (_, None) => self.remove(inventory, entry).await,
            (Problem::Labels | Problem::Corrupt { .. } | Problem::Header { .. }, Some(artifact)) => {
                match (current(entry, engines), self.layer_of(entry).await?) {
                    (Some(engine), Some(source)) => {
                        // This holds even for a blob with a valid stamp.
                        if matches!(problem, Problem::Corrupt { .. }) {
                            self.store.delete(artifact).await?;
                        }
                        let ready = self.replace(&source, engine).await?;
                        self.note(&source, engine, &ready);
                        Ok(())
                    }
                    _ => self.remove(inventory, entry).await,
                }
            }
        }
    }

    async fn remove(&self, inventory: &Inventory, entry: &Entry) -> Result<(), PrepareError> {
        Ok(self.forget(inventory, std::slice::from_ref(entry)).await.map(drop)?)
    }

    /// Finds the layer that is an entry's anchor, through one of the images that it belongs to.
    async fn layer_of(&self, entry: &Entry) -> Result<Option<Source>, PrepareError> {
        for name in &entry.images {
            let Ok(image) = self.resolve(name).await else { continue };
            if let Content::Wasm(layers) = &image.content
                && let Some(layer) = layers.iter().find(|layer| layer.digest == entry.anchor)
            {
                return Ok(Some(Source::layer(&image, layer)));
            }
        }
        Ok(None)
    }
}

/// Returns the engine that looks for this label.
fn current<'a>(entry: &Entry, engines: &[&'a dyn Engine]) -> Option<&'a dyn Engine> {
    let label = entry.label.as_ref()?;
    engines.iter().copied().find(|engine| engine.name() == label.engine && version_label(*engine) == label.version)
}
