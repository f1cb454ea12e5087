//! The artifacts of a store, their images, and whether a start would use them.
//!
//! One list of all blobs and one of all image records are joined in memory: there is no request per artifact. containerd labels the blobs
//! of an image with their references, so no manifest is read there; in an image layout they are read. Only labels are checked here.
//! `verify` checks the bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use prewasi_cache::{AnchorLabel, BlobInfo, ContentStore, Digest, ImageRecord, StoreError, labels};
use prewasi_engines::{Engine, Machine, Tuning, version_label};
use serde::{Deserialize, Serialize};

use crate::image::{DOCUMENT_LIMIT, is_document};

/// The use of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Of an engine of this binary, in the version that a start looks for.
    Current,
    /// Of an engine of this binary, in the version that a start looks for, and compiled with options of a runtime or image.
    Tuned,
    /// Of an engine of this binary, in another version.
    Superseded,
    /// Of an engine of this binary, for a machine that was named on the command line, with `--target` or `--cpu`.
    Elsewhere,
    /// A label whose value names no existing blob.
    Dangling,
    /// A label of another program, or one that its blob does not confirm: left alone, never trusted.
    Foreign,
}

/// An artifact, or a label that should name one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The use of the artifact.
    pub state: State,
    /// The blob with the label.
    pub anchor: Digest,
    /// The key of the label that names, or should name, the artifact.
    pub key: String,
    /// The parsed key, if it is one of prewasi's.
    pub label: Option<AnchorLabel>,
    /// The value of the label, if it is a digest.
    pub artifact: Option<Digest>,
    /// The source that the artifact's own label names, if the artifact is prewasi's.
    pub source: Option<Digest>,
    /// Length of the artifact in bytes, if it exists.
    pub size: Option<u64>,
    /// The time when the store first had it, if known.
    pub created: Option<SystemTime>,
    /// The anchor has the label that names the artifact.
    pub is_linked: bool,
    /// The anchor has the label that keeps the artifact from the garbage collector.
    pub is_kept: bool,
    /// Names of the images that the anchor belongs to.
    pub images: Vec<String>,
}

/// All artifacts of a store.
#[derive(Debug)]
pub struct Inventory {
    /// Sorted by image, engine and version.
    pub entries: Vec<Entry>,
    blobs: BTreeMap<Digest, BlobInfo>,
}

impl Inventory {
    /// Lists the artifacts, with their state for these engines.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn take(store: &dyn ContentStore, engines: &[&dyn Engine]) -> Result<Self, StoreError> {
        let images = store.images().await?;
        let blobs: BTreeMap<_, _> = store.blobs().await?.into_iter().map(|blob| (blob.digest.clone(), blob)).collect();
        let owners = Owners::find(store, &blobs, &images).await;
        let known: Vec<Known<'_>> = engines.iter().map(|engine| Known::of(*engine)).collect();
        let reached: BTreeSet<Digest> = blobs.values().flat_map(named).collect();
        let mut entries: Vec<Entry> =
            blobs.values().flat_map(|blob| entries_of(blob, &blobs, &reached, &known, &owners)).collect();
        entries.sort_by(|a, b| (&a.images, &a.key, &a.anchor).cmp(&(&b.images, &b.key, &b.anchor)));
        Ok(Self { entries, blobs })
    }

    /// Returns whether a label outside of `removed` (anchor and key) names a blob.
    pub(crate) fn is_named_beside(&self, artifact: &Digest, removed: &BTreeSet<(Digest, String)>) -> bool {
        self.blobs.values().any(|blob| {
            blob.labels.iter().any(|(key, value)| {
                value == artifact.as_str()
                    && (key.starts_with(labels::REFERENCE) || AnchorLabel::is_leading(key))
                    && !removed.contains(&(blob.digest.clone(), key.clone()))
            })
        })
    }
}

/// An engine with the parts that labels contain.
struct Known<'a> {
    engine: &'a dyn Engine,
    name: &'static str,
    version: String,
    fingerprint: String,
}

impl<'a> Known<'a> {
    fn of(engine: &'a dyn Engine) -> Self {
        let fingerprint = engine.fingerprint().hex().to_owned();
        Self { engine, name: engine.name(), version: version_label(engine), fingerprint }
    }

    fn is(&self, label: &AnchorLabel) -> bool {
        self.name == label.engine && self.version == label.version
    }

    /// Returns the state of code that was compiled with tuning; `None` if a start with the same options looks for another version.
    fn state_of_tuned(&self, label: &AnchorLabel, fingerprint: &str, tuning: &str) -> Option<State> {
        let tuning: Tuning = tuning.parse().ok()?;
        if tuning.machine != Machine::default() {
            return Some(State::Elsewhere);
        }
        let engine = self.engine.tuned(&tuning).ok()?;
        let is = version_label(&*engine) == label.version && engine.fingerprint().hex() == fingerprint;
        is.then_some(State::Tuned)
    }
}

/// Returns the blobs that prewasi's labels on this blob name.
fn named(blob: &BlobInfo) -> Vec<Digest> {
    let ours = |key: &str| AnchorLabel::is_leading(key) || AnchorLabel::is_keeping(key);
    blob.labels.iter().filter(|(key, _)| ours(key)).filter_map(|(_, value)| value.parse().ok()).collect()
}

/// Makes an entry for each label on `blob` that names, or should name, an artifact.
fn entries_of(
    blob: &BlobInfo,
    blobs: &BTreeMap<Digest, BlobInfo>,
    reached: &BTreeSet<Digest>,
    known: &[Known<'_>],
    owners: &Owners,
) -> Vec<Entry> {
    let is_artifact = blob.labels.contains_key(labels::SOURCE) || reached.contains(&blob.digest);
    let mut keys = BTreeSet::new();
    for (key, value) in &blob.labels {
        // An artifact's own label has a key of the same form, and a fingerprint as its value.
        let is_own = || is_artifact && AnchorLabel::parse_leading(key).is_some() && value.parse::<Digest>().is_err();
        if AnchorLabel::is_leading(key) && !is_own() {
            keys.insert(key.clone());
        }
        keys.extend(AnchorLabel::parse_keeping(key).map(|label| label.leading()));
    }
    let images = owners.of(&blob.digest);
    keys.into_iter().map(|key| entry(blob, key, blobs, known, images.clone())).collect()
}

fn entry(
    anchor: &BlobInfo,
    key: String,
    blobs: &BTreeMap<Digest, BlobInfo>,
    known: &[Known<'_>],
    images: Vec<String>,
) -> Entry {
    let label = AnchorLabel::parse_leading(&key);
    let leads = anchor.labels.get(&key);
    let keeps = label.as_ref().and_then(|label| anchor.labels.get(&label.keeping()));
    let artifact: Option<Digest> = leads.or(keeps).and_then(|value| value.parse().ok());
    let blob = artifact.as_ref().and_then(|digest| blobs.get(digest));
    let claim = label.as_ref().zip(blob).and_then(|(label, blob)| label.claim(&anchor.digest, blob));
    let state = match (&label, blob, &claim) {
        (None, ..) => State::Foreign,
        (Some(label), ..) if known.iter().all(|engine| engine.name != label.engine) => State::Foreign,
        (_, None, _) => State::Dangling,
        (_, _, None) => State::Foreign,
        (Some(label), Some(blob), Some(claim)) => match known.iter().find(|engine| engine.is(label)) {
            Some(engine) if engine.fingerprint == claim.fingerprint => State::Current,
            Some(_) => State::Foreign,
            None => {
                let tuned = |tuning: &String| {
                    let engine = known.iter().find(|engine| engine.name == label.engine)?;
                    engine.state_of_tuned(label, &claim.fingerprint, tuning)
                };
                blob.labels.get(labels::TUNING).and_then(tuned).unwrap_or(State::Superseded)
            }
        },
    };
    Entry {
        state,
        anchor: anchor.digest.clone(),
        is_linked: leads.is_some(),
        is_kept: artifact.as_ref().is_some_and(|digest| keeps.is_some_and(|value| value == digest.as_str())),
        size: blob.map(|blob| blob.size),
        created: blob.and_then(|blob| blob.created),
        source: claim.map(|claim| claim.source),
        key,
        label,
        artifact,
        images,
    }
}

/// The images that each blob belongs to.
struct Owners(BTreeMap<Digest, Vec<String>>);

impl Owners {
    async fn find(store: &dyn ContentStore, blobs: &BTreeMap<Digest, BlobInfo>, images: &[ImageRecord]) -> Self {
        let mut owners: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        let mut names: Vec<&ImageRecord> = images.iter().collect();
        names.sort_by(|a, b| a.name.cmp(&b.name));
        for image in names {
            let mut seen = BTreeSet::new();
            let mut open = vec![(image.target.clone(), is_document(&image.media_type))];
            while let Some((digest, document)) = open.pop() {
                let Some(blob) = blobs.get(&digest) else { continue };
                if seen.insert(digest.clone()) {
                    open.extend(children(store, blob, document).await);
                    owners.entry(digest).or_default().push(image.name.clone());
                }
            }
        }
        Self(owners)
    }

    fn of(&self, digest: &Digest) -> Vec<String> {
        self.0.get(digest).cloned().unwrap_or_default()
    }
}

/// Returns the blobs that a blob of an image refers to, and whether each is a document with further references.
async fn children(store: &dyn ContentStore, blob: &BlobInfo, document: bool) -> Vec<(Digest, bool)> {
    let references =
        blob.labels.iter().filter(|(key, _)| key.starts_with(labels::REFERENCE) && !AnchorLabel::is_keeping(key));
    let labelled: Vec<_> = references
        .filter_map(|(key, value)| Some((value.parse().ok()?, key.starts_with("containerd.io/gc.ref.content.m."))))
        .collect();
    if !document || !labelled.is_empty() {
        return labelled;
    }
    // An unreadable document belongs to an unusable image; a start of that image reports the reason.
    let bytes = store.read(&blob.digest, DOCUMENT_LIMIT).await.unwrap_or_default();
    let parsed: Document = serde_json::from_slice(&bytes).unwrap_or_default();
    let all = parsed.manifests.into_iter().chain(parsed.config).chain(parsed.layers);
    all.filter_map(|child| Some((child.digest.parse().ok()?, is_document(&child.media_type)))).collect()
}

/// The references in an index or manifest.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    manifests: Vec<Child>,
    config: Option<Child>,
    layers: Vec<Child>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Child {
    media_type: String,
    digest: String,
}

#[cfg(test)]
mod tests;
