//! Writes one blob: an ingest named after its digest, filled from offset 0, committed against the digest.

use std::os::unix::fs::FileExt as _;

use containerd_client::services::v1::{WriteAction, WriteContentRequest};
use tonic::{Code, Status};

use super::ingest::{Ingest, is_locked, stat};
use super::link::{ANSWER, COLLECT, Link};
use crate::store::io_error;
use crate::{Lease, NewBlob, StoreError};

/// Bytes per message; containerd takes up to 16 MiB.
const CHUNK: usize = 1 << 20;

/// The result of an upload.
pub(super) enum Outcome {
    /// The blob is in the store, with its labels and under the lease.
    Committed,
    /// The blob existed already; the caller has to add it to the lease and set its labels.
    Exists,
}

/// The reason why a blob could not be written.
pub(super) enum Failure {
    /// containerd refused, or did not answer.
    Remote(Status),
    /// The bytes cannot be read.
    Local(StoreError),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Remote(status)
    }
}

/// Writes `blob`, without retries. A failure leaves no bytes in the store, unless another writer writes the same blob.
pub(super) async fn upload(link: &Link, lease: &Lease, blob: NewBlob<'_>) -> Result<Outcome, Failure> {
    // The ingest is named after the output's digest: two writers with the same ref write the same bytes.
    let reference = format!("prewasi-{}", blob.digest);
    let size = i64::try_from(blob.size).unwrap_or(i64::MAX);
    let expected = blob.digest.to_string();
    let first = WriteContentRequest { total: size, expected, ..stat(reference.clone()) };
    let mut ingest = match Ingest::open(link, Some(lease), first).await {
        Ok(ingest) => ingest,
        Err(status) if status.code() == Code::AlreadyExists => return Ok(Outcome::Exists),
        Err(status) => return Err(status.into()),
    };
    let failure = match fill(&mut ingest, blob, size).await {
        Ok(()) => return Ok(Outcome::Committed),
        Err(Failure::Remote(status)) if status.code() == Code::AlreadyExists => return Ok(Outcome::Exists),
        Err(failure) => failure,
    };
    abandon(link, lease, reference, ingest, &failure).await;
    Err(failure)
}

async fn fill(ingest: &mut Ingest, blob: NewBlob<'_>, size: i64) -> Result<(), Failure> {
    let mut offset = 0;
    while offset < blob.size {
        let length = usize::try_from(blob.size - offset).unwrap_or(usize::MAX).min(CHUNK);
        let mut data = vec![0; length];
        blob.file
            .read_exact_at(&mut data, offset)
            .map_err(io_error("read what is to become blob", blob.digest))
            .map_err(Failure::Local)?;
        ingest.append(data, ANSWER).await?;
        offset += length as u64;
    }
    let commit = WriteContentRequest {
        action: WriteAction::Commit.into(),
        total: size,
        expected: blob.digest.to_string(),
        // A commit at any other offset than the end would truncate.
        offset: ingest.offset(),
        labels: blob.labels.clone().into_iter().collect(),
        ..Default::default()
    };
    ingest.exchange(commit, COLLECT).await?;
    Ok(())
}

/// Removes the remains of a failed write. A refusal has ended the stream: then this function takes the ref again, because the bytes could
/// otherwise be those of a later writer.
async fn abandon(link: &Link, lease: &Lease, reference: String, ingest: Ingest, failure: &Failure) {
    let held = match failure {
        Failure::Local(_) => Ok(ingest),
        Failure::Remote(_) => {
            drop(ingest);
            Ingest::open(link, Some(lease), stat(reference)).await
        }
    };
    let aborted = match held {
        Ok(ingest) => {
            let aborted = ingest.abort(link, Some(lease)).await;
            ingest.close().await;
            aborted
        }
        Err(status) => Err(status),
    };
    if let Err(status) = aborted
        && !is_locked(&status)
    {
        tracing::debug!(%status, "the lease's end will remove an ingest that could not be aborted");
    }
}
