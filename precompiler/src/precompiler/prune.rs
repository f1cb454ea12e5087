//! Removes artifacts that no start of this binary looks for any more.
//!
//! The label that names an artifact goes first, then the label that keeps it, then the blob. A process that dies in between leaves an
//! artifact that no look-up finds; the next call removes it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use prewasi_cache::StoreError;
use prewasi_engines::Engine;

use super::Precompiler;
use crate::{Entry, Inventory, State};

/// The superseded artifacts that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrunePolicy {
    /// Number of the newest artifacts to keep, per source and engine, so that a rollback finds its code.
    pub keep: usize,
    /// Artifacts that are younger are kept.
    pub older_than: Duration,
}

/// The removed artifacts, or with `dry_run` those that would be removed.
#[derive(Debug)]
pub struct Pruned {
    /// Their entries.
    pub entries: Vec<Entry>,
    /// Total length of the removed blobs, in bytes.
    pub freed: u64,
}

impl Precompiler {
    /// Removes superseded artifacts, or with `dry_run` only returns them.
    ///
    /// # Errors
    /// Those of the store; artifacts that were removed before the error stay removed.
    pub async fn prune(
        &self,
        engines: &[&dyn Engine],
        policy: PrunePolicy,
        dry_run: bool,
    ) -> Result<Pruned, StoreError> {
        let inventory = self.inventory(engines).await?;
        let entries: Vec<Entry> = select(&inventory.entries, policy, SystemTime::now()).into_iter().cloned().collect();
        let freed = if dry_run {
            unreferenced(&inventory, &entries).values().sum()
        } else {
            self.forget(&inventory, &entries).await?
        };
        Ok(Pruned { entries, freed })
    }

    /// Removes the labels of these entries, and the blobs that no label names any more; returns the blobs' total length.
    pub(super) async fn forget(&self, inventory: &Inventory, entries: &[Entry]) -> Result<u64, StoreError> {
        for entry in entries {
            self.unlabel(entry).await?;
        }
        let mut freed = 0;
        for (digest, size) in unreferenced(inventory, entries) {
            self.store.delete(digest).await?;
            freed += size;
        }
        Ok(freed)
    }

    async fn unlabel(&self, entry: &Entry) -> Result<(), StoreError> {
        let Some(label) = &entry.label else { return Ok(()) };
        for key in [label.leading(), label.keeping()] {
            match self.store.set_label(&entry.anchor, &key, "").await {
                // The image has been removed meanwhile, and its layer with it.
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let Some(artifact) = &entry.artifact else { return Ok(()) };
        for name in &entry.images {
            let record = self.store.image(name).await?;
            let marked = |value: &String| value == artifact.as_str();
            if record.is_some_and(|record| record.labels.get(&label.plain()).is_some_and(marked)) {
                self.store.set_image_label(name, &label.plain(), "").await?;
            }
        }
        Ok(())
    }
}

/// Returns the blobs, with their lengths, that no label names once the labels of these entries are gone.
fn unreferenced<'a>(inventory: &Inventory, entries: &'a [Entry]) -> BTreeMap<&'a prewasi_cache::Digest, u64> {
    let labels = entries.iter().filter_map(|entry| entry.label.as_ref().map(|label| (&entry.anchor, label)));
    let removed: BTreeSet<_> = labels
        .flat_map(|(anchor, label)| [label.leading(), label.keeping()].map(|key| (anchor.clone(), key)))
        .collect();
    let blobs = entries.iter().filter_map(|entry| Some((entry.artifact.as_ref()?, entry.size?)));
    blobs.filter(|(digest, _)| !inventory.is_named_beside(digest, &removed)).collect()
}

/// Chooses the entries to remove: for each anchor, engine and source the superseded artifacts beyond the newest `keep`, if old enough.
fn select(entries: &[Entry], policy: PrunePolicy, now: SystemTime) -> Vec<&Entry> {
    let mut groups: BTreeMap<_, Vec<&Entry>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.state == State::Superseded) {
        if let Some(label) = &entry.label {
            groups.entry((&entry.anchor, &label.engine, &label.source)).or_default().push(entry);
        }
    }
    let is_old = |entry: &Entry| {
        let age = entry.created.and_then(|created| now.duration_since(created).ok());
        policy.older_than.is_zero() || age.is_some_and(|age| age >= policy.older_than)
    };
    let mut chosen = Vec::new();
    for mut group in groups.into_values() {
        group.sort_by_key(|entry| std::cmp::Reverse((entry.created, &entry.key)));
        chosen.extend(group.into_iter().skip(policy.keep).filter(|entry| is_old(entry)));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use prewasi_cache::{AnchorLabel, Digest};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn entry(anchor: &str, state: State, version: &str, age: u32) -> Entry {
        let label = AnchorLabel { engine: "wasmtime".to_owned(), version: version.to_owned(), source: None };
        Entry {
            state,
            anchor: Digest::of(anchor.as_bytes()),
            key: label.leading(),
            label: Some(label),
            artifact: Some(Digest::of(version.as_bytes())),
            source: Some(Digest::of(anchor.as_bytes())),
            size: Some(1),
            created: Some(now() - HOUR * age),
            is_linked: true,
            is_kept: true,
            images: Vec::new(),
        }
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + HOUR * 24 * 365
    }

    fn versions(entries: &[Entry], keep: usize, older_than: Duration) -> Vec<String> {
        let chosen = select(entries, PrunePolicy { keep, older_than }, now());
        chosen.into_iter().map(|entry| entry.label.clone().expect("each has one").version).collect()
    }

    /// For each source the newest `keep` superseded artifacts stay; all other states stay too.
    #[test]
    fn keeps_the_newest() {
        let entries = [
            entry("a", State::Current, "5", 0),
            entry("a", State::Superseded, "4", 10),
            entry("a", State::Superseded, "3", 20),
            entry("a", State::Superseded, "2", 30),
            entry("a", State::Foreign, "1", 40),
            entry("a", State::Dangling, "0", 40),
            entry("b", State::Superseded, "b", 40),
        ];
        assert_eq!(versions(&entries, 1, Duration::ZERO), ["3", "2"]);
        assert_eq!(versions(&entries, 2, Duration::ZERO), ["2"]);
        let mut all = versions(&entries, 0, Duration::ZERO);
        all.sort();
        assert_eq!(all, ["2", "3", "4", "b"]);
    }

    /// An artifact that is younger than the limit stays, also beyond the newest `keep`.
    #[test]
    fn keeps_the_young() {
        let entries = [entry("a", State::Superseded, "2", 10), entry("a", State::Superseded, "1", 20)];
        assert_eq!(versions(&entries, 0, HOUR * 15), ["1"]);
        assert_eq!(versions(&entries, 1, HOUR * 21), [""; 0]);
    }
}
