//! Obtains a trustworthy artifact: from the cache, from another process that is compiling it, or by a compile.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prewasi_cache::{AnchorLabel, Artifact, ArtifactKey, Digest, Lock, Lookup, MissReason, fault, labels};
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
    /// The file with the bytes: the store's own file, or a sealed memfd.
    pub(super) file: File,
    /// Length in bytes.
    pub size: u64,
    /// Digest of the stored artifact; `None` if the store failed.
    pub stored: Option<Digest>,
    /// The origin of the artifact.
    pub origin: Origin,
}

/// The origin of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The cache had it.
    Cached,
    /// Another process was compiling it; this call waited.
    Awaited,
    /// This call compiled it.
    Compiled {
        /// Duration, wall clock.
        elapsed: Duration,
        /// Peak memory of the worker, in bytes.
        peak_memory: u64,
    },
}

/// The result of waiting for the turn to compile.
enum Turn {
    /// It is this call's turn, with the lock if it could be taken.
    Ours(Option<Lock>),
    /// Another process has stored the artifact.
    Done(Ready),
}

/// Whether the store has failed already, for one requested artifact.
#[derive(Default)]
struct Trouble {
    said: AtomicBool,
}

/// Maximum number of files of one image whose artifacts are stored. A container can change a file and execute it again and again. Its
/// artifacts are stored outside the container, so their number must be limited.
const FILES_MAX: usize = 64;

impl Precompiler {
    /// Looks the artifact up; on a miss waits for a process that compiles the same, else compiles and stores.
    pub(super) async fn obtain(&self, source: &Source, engine: &dyn Engine) -> Result<Ready, PrepareError> {
        let Some(key) = source.key(engine) else {
            return self.compile(source, engine).await.map(Ready::unstored);
        };
        let trouble = Trouble::default();
        if let Some(ready) = self.look_up(&key, engine, Origin::Cached, &trouble).await {
            self.keep_for(source, &key, engine, &trouble).await;
            return Ok(ready);
        }
        // A layer that cannot be compiled must not wait for its turn first.
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

    /// Compiles although there is an artifact, because the engine has refused that one.
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
                    tracing::warn!(source = %key.source, ?reason, "cannot use an artifact; compiling again");
                }
                (None, Activity::Miss((&reason).into()))
            }
            Err(error) => {
                self.cache_failure(key, engine, trouble, "look up an artifact", &error);
                (None, Activity::Miss(Miss::Unavailable))
            }
        };
        // A call that waits for another process's compile looks up repeatedly; only its first look-up is counted.
        if origin == Origin::Cached {
            self.observer.observe(engine.name(), activity);
        }
        ready
    }

    /// Waits until the artifact exists or it is this call's turn to compile it. If the lock fails, or after the deadline, it is this
    /// call's turn.
    async fn turn(&self, key: &ArtifactKey, engine: &dyn Engine, subject: &str, trouble: &Trouble) -> Turn {
        let name = format!("{}/{}/{}", key.source, key.engine, key.version);
        let started = Instant::now();
        let mut waited = false;
        loop {
            match self.store.try_lock(&name).await {
                Ok(Some(lock)) => {
                    // The previous holder of the lock has stored the artifact, or has died.
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
            if started.elapsed() > self.settings.compile.lock_deadline {
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
        self.keep_for(source, key, engine, trouble).await;
        if self.is_full(key).await {
            tracing::warn!(source = %key.source, anchor = %key.anchor, "not storing native code: {FILES_MAX} files of this image have some already");
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

    /// Sees to it that the keeper of a source stays, if it has one.
    async fn keep_for(&self, source: &Source, key: &ArtifactKey, engine: &dyn Engine, trouble: &Trouble) {
        if let Some(keeper) = &source.keeper
            && let Err(error) = self.keep(keeper).await
        {
            self.cache_failure(key, engine, trouble, "keep artifacts", &error);
        }
    }

    /// Returns whether an image has the maximum number of artifacts of files.
    async fn is_full(&self, key: &ArtifactKey) -> bool {
        if key.anchor == key.source {
            return false;
        }
        // A store that cannot be read will report that at the write.
        let Ok(Some(anchor)) = self.store.info(&key.anchor).await else { return false };
        anchor.labels.keys().filter(|label| AnchorLabel::is_leading(label)).count() >= FILES_MAX
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

    /// Logs and counts a failure of the cache after which the caller continues without it. It does so once per requested artifact, even
    /// if several steps fail for the same reason.
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
    /// Refuses, before the wasm is read, an image whose config names an import that the engine does not provide. If the config is
    /// incomplete, the compile finds the rest.
    pub(super) fn check_imports(&self, engine: &dyn Engine) -> Result<(), ImageError> {
        match &self.bytes {
            Bytes::Layer { image, imports, .. } if !imports.is_empty() => match engine.first_unprovided(imports) {
                None => Ok(()),
                Some(import) => {
                    let (image, import) = (image.clone(), cut(import));
                    Err(ImageError::Unprovided { image, import, engine: engine.name() })
                }
            },
            // Skipped, because making an engine for the question takes milliseconds.
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

    /// Returns the digest of the artifact, whether it is stored or not.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn digest(&self) -> std::io::Result<Digest> {
        self.stored.clone().map_or_else(|| hash(&self.file), Ok)
    }
}

impl Compiled {
    fn origin(&self) -> Origin {
        Origin::Compiled { elapsed: self.elapsed, peak_memory: self.peak_memory }
    }
}

/// Returns the labels that describe an artifact to people.
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
