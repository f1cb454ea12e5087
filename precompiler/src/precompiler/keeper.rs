//! The owner of a file's native code, and a keeper for files whose image is not in the content store.
//!
//! Docker's own store has the images of its containers, so containerd has no manifest that could keep the code of their files. The keeper
//! takes the manifest's place: a small blob with the same labels. A lease keeps the blob for some weeks, and a use renews the lease. So containerd collects the code of a file that nobody runs any more, without a call from a client.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use prewasi_cache::{Digest, NewBlob, StoreError, labels};
use rustix::fs::MemfdFlags;

use super::Precompiler;
use crate::Image;

/// How long the code is kept after it was last used, at most. It is not renewed before half of that has passed.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// The version of a keeper's form.
const FORMAT: u32 = 1;

/// The content that keeps the native code of a file.
#[derive(Debug, Clone, Copy)]
pub enum Owner<'a> {
    /// With nothing: it is compiled each time.
    Nobody,
    /// With the image whose file system the file belongs to.
    Image(&'a Image),
    /// With a keeper, for the store has no image of it. All files of an owner share one, and the room in it.
    Outside(&'a str),
}

/// A blob that keeps the native code of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keeper {
    bytes: Vec<u8>,
    /// The digest of its bytes.
    pub(super) digest: Digest,
}

impl Keeper {
    /// Makes the keeper of an owner and of one version of an engine's code (`ENGINE/VERSION`), the same for all containers. After an
    /// upgrade the old code expires with its own keeper.
    pub(super) fn of(owner: &str, code: &str) -> Self {
        let bytes =
            serde_json::json!({ "format": FORMAT, "keeps": "native code of files", "owner": owner, "code": code });
        let bytes = bytes.to_string().into_bytes();
        Self { digest: Digest::of(&bytes), bytes }
    }
}

impl Precompiler {
    /// Sees to it that a keeper is in the store, and stays there for a while.
    ///
    /// # Errors
    /// The store's error.
    pub(super) async fn keep(&self, keeper: &Keeper) -> Result<(), StoreError> {
        let now = Timestamp::now();
        let info = self.store.info(&keeper.digest).await?;
        let until = info.and_then(|info| info.labels.get(labels::KEPT_UNTIL)?.parse::<Timestamp>().ok());
        if until.is_some_and(|until| is_enough(now, until)) {
            return Ok(());
        }
        let failed = |source| StoreError::Io { action: "write", subject: "a keeper to memory".to_owned(), source };
        let file =
            rustix::fs::memfd_create("prewasi-keeper", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()));
        let mut file = File::from(file?);
        file.write_all(&keeper.bytes).map_err(failed)?;
        let labels = [(labels::KEPT_UNTIL.to_owned(), (now + KEPT).to_string())].into();
        let lease = self.store.lease(KEPT).await?;
        let size = keeper.bytes.len() as u64;
        let blob = NewBlob { digest: &keeper.digest, size, file: &file, labels: &labels };
        let written = self.store.write(&lease, blob).await;
        if written.is_err() {
            // The lease of a keeper that was written ends by itself.
            let _ = self.store.release(lease).await;
        }
        written
    }
}

/// Returns whether a keeper that is kept until then needs no renewal yet. A time too far ahead counts as expired, so a clock that was set
/// back keeps nothing for ever.
fn is_enough(now: Timestamp, until: Timestamp) -> bool {
    until > now + KEPT / 2 && until <= now + KEPT
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each owner has one keeper for each version of the code.
    #[test]
    fn owners_have_keepers() {
        assert_eq!(Keeper::of("a", "e/1"), Keeper::of("a", "e/1"));
        assert_ne!(Keeper::of("a", "e/1").digest, Keeper::of("", "e/1").digest);
        assert_ne!(Keeper::of("a", "e/1").digest, Keeper::of("a", "e/2").digest);
    }

    /// A keeper is renewed in the second half of its time, and when its time is longer than the limit.
    #[test]
    fn time_is_renewed() {
        let now: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
        let enough = |until: &str| is_enough(now, until.parse().unwrap());
        assert!(enough("2026-12-31T00:00:00Z") && enough("2026-12-17T00:00:00Z"));
        assert!(!enough("2026-12-16T00:00:00Z") && !enough("2026-11-01T00:00:00Z") && !enough("2027-12-01T00:00:00Z"));
    }
}
