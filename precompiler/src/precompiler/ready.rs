//! Getting an artifact that may be trusted: from the cache, from whoever is compiling it just now, or from a compile.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prewasi_cache::{Artifact, ArtifactKey, Digest, Lock, Lookup, MissReason, fault, labels};
use prewasi_engines::{Engine, version_label};
use tracing::Instrument as _;
use tracing::field::Empty;

use super::{Bytes, POLL, Precompiler, Source};
use crate::bytes::hash;
use crate::compile::{self, CompileFailure, Compiled, Input};
use crate::image::cut;
use crate::journal::Event;
use crate::observer::{Activity, Miss};
use crate::slots;
use crate::{ImageError, PrepareError};

/// An artifact, ready to be loaded.
#[derive(Debug)]
pub struct Ready {
    /// The bytes: the store's own file, or a sealed memfd.
    pub(super) file: File,
    /// Length in bytes.
    pub size: u64,
    /// Digest under which it is stored; `None` if the store failed.
    pub stored: Option<Digest>,
    /// Where it came from.
    pub origin: Origin,
}

/// Where an artifact came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was there.
    Cached,
    /// Somebody else was compiling it; this call waited.
    Awaited,
    /// This call compiled it.
    Compiled {
        /// Wall clock.
        elapsed: Duration,
        /// Memory of the worker at its highest, bytes.
        peak_memory: u64,
    },
}

/// Whose turn it is to compile.
enum Turn {
    /// Ours, under a lock if one could be had.
    Ours(Option<Lock>),
    /// Somebody else was quicker.
    Done(Ready),
}

/// Whether the store has failed already, for one artifact that is asked for.
#[derive(Default)]
struct Trouble {
    said: AtomicBool,
}

/// How many files of one image are kept compiled. A container can change a file of its own and have it executed again and
/// again; what is kept of that lies outside of it, and must have a bound.
const FILES_MAX: usize = 64;
/// How the labels begin that lead from an anchor to artifacts.
const ARTIFACT_LABELS: &str = "runwasi.io/precompiled/";

impl Precompiler {
    /// Looks up, else waits for whoever compiles the same, else compiles and stores.
    pub(super) async fn obtain(&self, source: &Source, engine: &dyn Engine) -> Result<Ready, PrepareError> {
        let Some(key) = source.key(engine) else {
            return self.compile(source, engine).await.map(Ready::unstored);
        };
        let trouble = Trouble::default();
        if let Some(keeper) = &source.keeper
            && let Err(error) = self.keep(keeper).await
        {
            self.cache_failure(&key, engine, &trouble, "keep artifacts", &error);
        }
        if let Some(ready) = self.look_up(&key, engine, Origin::Cached, &trouble).await {
            return Ok(ready);
        }
        // A layer that cannot be compiled at all must not first wait for its turn.
        source.check_imports(engine)?;
        self.check(source).await?;
        match self.turn(&key, engine, &source.subject, &trouble).await {
            Turn::Done(ready) => Ok(ready),
            Turn::Ours(lock) => {
                let ready = self.compile_and_store(source, engine, &key, &trouble).await;
                if let Some(lock) = lock {
                    lock.release().await;
                }
                ready
            }
        }
    }

    /// Compiles although there is an artifact, because it is of no use.
    pub(super) async fn replace(&self, source: &Source, engine: &dyn Engine) -> Result<Ready, PrepareError> {
        match source.key(engine) {
            Some(key) => self.compile_and_store(source, engine, &key, &Trouble::default()).await,
            None => self.compile(source, engine).await.map(Ready::unstored),
        }
    }

    async fn look_up(
        &self,
        key: &ArtifactKey,
        engine: &dyn Engine,
        origin: Origin,
        trouble: &Trouble,
    ) -> Option<Ready> {
        let (ready, activity) = match self.cache.lookup(key).await {
            Ok(Lookup::Hit(artifact)) => (Some(Ready::stored(artifact, origin)), Activity::Hit),
            Ok(Lookup::Miss(reason)) => {
                if reason != MissReason::Absent {
                    tracing::warn!(source = %key.source, ?reason, "an artifact cannot be used; compiling again");
                }
                (None, Activity::Miss((&reason).into()))
            }
            Err(error) => {
                self.cache_failure(key, engine, trouble, "look up an artifact", &error);
                (None, Activity::Miss(Miss::Unavailable))
            }
        };
        // Those who wait for somebody's compile look again and again, and count once: by their first look.
        if origin == Origin::Cached {
            self.observer.observe(engine.name(), activity);
        }
        ready
    }

    /// Waits until the artifact is there or it is our turn to make it. Trouble with the lock, or a deadline passed, means
    /// that it is our turn.
    async fn turn(&self, key: &ArtifactKey, engine: &dyn Engine, subject: &str, trouble: &Trouble) -> Turn {
        let name = format!("{}/{}/{}", key.source, key.engine, key.version);
        let started = Instant::now();
        let mut waited = false;
        loop {
            match self.store.try_lock(&name).await {
                Ok(Some(lock)) => {
                    // The one who held the lock until just now has stored what we want, or has died.
                    let Some(ready) = self.look_up(key, engine, Origin::Awaited, trouble).await else {
                        fault::point("locked");
                        return Turn::Ours(Some(lock));
                    };
                    lock.release().await;
                    let origin = if waited { Origin::Awaited } else { Origin::Cached };
                    return Turn::Done(Ready { origin, ..ready });
                }
                Ok(None) => {}
                Err(error) => {
                    self.cache_failure(key, engine, trouble, "take the compile lock", &error);
                    return Turn::Ours(None);
                }
            }
            if !waited {
                tracing::debug!(subject, "waiting for another process that compiles the same");
                waited = true;
            }
            tokio::time::sleep(POLL).await;
            if let Some(ready) = self.look_up(key, engine, Origin::Awaited, trouble).await {
                return Turn::Done(ready);
            }
            if started.elapsed() > self.settings.lock_deadline {
                tracing::warn!(subject, waited = ?started.elapsed(), "compiling without the lock");
                return Turn::Ours(None);
            }
        }
    }

    async fn compile_and_store(
        &self,
        source: &Source,
        engine: &dyn Engine,
        key: &ArtifactKey,
        trouble: &Trouble,
    ) -> Result<Ready, PrepareError> {
        let compiled = self.compile(source, engine).await?;
        fault::point("compiled");
        if self.is_full(key).await {
            tracing::warn!(source = %key.source, anchor = %key.anchor, "no more than {FILES_MAX} files of an image are kept compiled");
            return Ok(Ready::unstored(compiled));
        }
        match self.cache.store(key, &compiled.file, compiled.size, &details(&compiled, engine)).await {
            Ok(artifact) => Ok(Ready::stored(artifact, compiled.origin())),
            Err(error) => {
                self.cache_failure(key, engine, trouble, "store an artifact", &error);
                Ok(Ready::unstored(compiled))
            }
        }
    }

    /// Says whether an image has so many artifacts of files that it gets no more.
    async fn is_full(&self, key: &ArtifactKey) -> bool {
        if key.anchor == key.source {
            return false;
        }
        // A store that cannot be asked says so when it is written to.
        let Ok(Some(anchor)) = self.store.info(&key.anchor).await else { return false };
        anchor.labels.keys().filter(|label| label.starts_with(ARTIFACT_LABELS)).count() >= FILES_MAX
    }

    async fn compile(&self, source: &Source, engine: &dyn Engine) -> Result<Compiled, PrepareError> {
        let (file, text) = self.open(source).await?;
        let _slot = slots::acquire(&self.settings).await;
        let started = Instant::now();
        let span = tracing::info_span!("compile", source = %source.digest, peak_memory = Empty, error = Empty);
        let compiling = compile::compile(&self.settings, engine, Input { file: &file, text });
        let result = compiling.instrument(span.clone()).await;
        let seconds = started.elapsed().as_secs_f64();
        let (outcome, peak_memory) = result.as_ref().map_or(("failed", 0), |compiled| ("ok", compiled.peak_memory));
        self.journal.note(&Event::Compile {
            source: source.digest.as_str(),
            engine: engine.name(),
            version: &version_label(engine),
            outcome,
            seconds,
            peak_memory,
        });
        let compiled = |compiled: &Compiled| Activity::Compiled { seconds, bytes: compiled.size };
        self.observer.observe(engine.name(), result.as_ref().map_or(Activity::CompileFailed, compiled));
        span.record("peak_memory", peak_memory);
        let subject = source.subject.clone();
        let result = result.map_err(|failure| match failure {
            CompileFailure::Refused(source) => PrepareError::Compile { subject, source },
            CompileFailure::Worker(source) => PrepareError::Worker { subject, source },
        });
        if let Err(error) = &result {
            span.record("error", crate::chain(error));
        }
        result
    }

    /// Says, and counts, that the cache failed where the caller goes on without it: once for each time that an artifact is asked
    /// for, however many steps fail for the same reason.
    fn cache_failure(
        &self,
        key: &ArtifactKey,
        engine: &dyn Engine,
        trouble: &Trouble,
        action: &str,
        error: &(dyn std::error::Error + 'static),
    ) {
        if trouble.said.swap(true, Ordering::Relaxed) {
            tracing::debug!(source = %key.source, error, "cannot {action} either");
            return;
        }
        self.observer.observe(engine.name(), Activity::CacheFailed);
        tracing::warn!(source = %key.source, error, "cannot {action}; going on without the cache");
        self.journal.note(&Event::CacheFailure { source: key.source.as_str(), error: crate::chain(error) });
    }
}

impl Source {
    /// Refuses, before anything of the wasm is read, what by the image's own word the engine cannot give it. What the image does not
    /// say, the compile finds.
    pub(super) fn check_imports(&self, engine: &dyn Engine) -> Result<(), ImageError> {
        match &self.bytes {
            Bytes::Layer { image, imports, .. } if !imports.is_empty() => match engine.first_unprovided(imports) {
                None => Ok(()),
                Some(import) => {
                    let (image, import) = (image.clone(), cut(import));
                    Err(ImageError::Unprovided { image, import, engine: engine.name() })
                }
            },
            // Making an engine to ask takes milliseconds.
            _ => Ok(()),
        }
    }
}

impl Ready {
    pub(super) fn stored(artifact: Artifact, origin: Origin) -> Self {
        Self { file: artifact.blob.file, size: artifact.blob.size, stored: Some(artifact.digest), origin }
    }

    fn unstored(compiled: Compiled) -> Self {
        Self { origin: compiled.origin(), file: compiled.file, size: compiled.size, stored: None }
    }

    /// Hashes the artifact, whether it is stored or not.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn digest(&self) -> std::io::Result<Digest> {
        self.stored.clone().map_or_else(|| hash(&self.file), Ok)
    }
}

impl Compiled {
    fn origin(&self) -> Origin {
        Origin::Compiled { elapsed: self.elapsed, peak_memory: self.peak_memory }
    }
}

/// Labels that tell a person about an artifact.
fn details(compiled: &Compiled, engine: &dyn Engine) -> BTreeMap<String, String> {
    let shape = engine.tuning().shape();
    let tuning = (!shape.is_plain()).then(|| (labels::TUNING.to_owned(), shape.to_string()));
    [
        (labels::TARGET, engine.fingerprint().field("target").unwrap_or_default().to_owned()),
        (labels::COMPILE_MILLISECONDS, compiled.elapsed.as_millis().to_string()),
        (labels::COMPILE_PEAK_BYTES, compiled.peak_memory.to_string()),
        (labels::SIZE_BYTES, compiled.size.to_string()),
        (labels::CREATED, jiff::Timestamp::now().to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .chain(tuning)
    .collect()
}
