//! Locks: an ingest ref held open. containerd lets one stream at a time have a ref, and frees it when the connection
//! ends, however the process ended.
//!
//! A holder that was killed leaves an empty ingest, which stays until its lease expires. To tell it from one that is
//! held, it must be opened; that is done without a lease, so that asking in vain costs containerd neither a write
//! nor a garbage collection, however many wait.

use std::time::Duration;

use async_trait::async_trait;
use containerd_client::services::v1::StatusRequest;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::ingest::{Ingest, is_locked, stat};
use super::link::{ANSWER, Link, failure, within};
use crate::retry::{is_unavailable, pauses};
use crate::store::Held;
use crate::{Digest, Lease, Lock, StoreError};

/// How long the trace of a holder that was killed may stay. The lock itself outlives its lease.
const TTL: Duration = Duration::from_secs(600);

/// A task that holds the stream until it is told, or sees, that the lock is no longer wanted.
struct Holder {
    wanted: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

#[async_trait]
impl Held for Holder {
    async fn release(self: Box<Self>) {
        drop(self.wanted);
        if let Err(error) = self.task.await {
            tracing::debug!(%error, "a lock ended without being cleaned up");
        }
    }
}

/// Tries to take the lock `name`.
pub(super) async fn try_lock(link: &Link, name: &str) -> Result<Option<Lock>, StoreError> {
    // A name may be longer than a ref should be, or hold what a ref should not.
    let reference = format!("prewasi-lock-{}", Digest::of(name.as_bytes()).hex());
    let mut pauses = pauses();
    loop {
        let status = match free(link, &reference).await {
            Ok(true) => match take(link, &reference).await? {
                Ok(lock) => return Ok(Some(lock)),
                Err(status) => status,
            },
            Ok(false) => return Ok(None),
            Err(status) => status,
        };
        if is_locked(&status) {
            return Ok(None);
        }
        match pauses.next().filter(|_| is_unavailable(&status)) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(failure("take", &format!("lock {name}"), status)),
        }
    }
}

/// Says whether nobody holds the ref, and removes what a dead holder left there.
async fn free(link: &Link, reference: &str) -> Result<bool, Status> {
    let request = link.request(StatusRequest { r#ref: reference.to_owned() }, None);
    match within(ANSWER, link.content().status(request)).await {
        Err(status) if status.code() == Code::NotFound => return Ok(true),
        Err(status) => return Err(status),
        Ok(_) => {}
    }
    match Ingest::open(link, None, stat(reference.to_owned())).await {
        Ok(leftover) => leftover.abort(link, None).await.map(|()| true),
        Err(status) if is_locked(&status) => Ok(false),
        Err(status) => Err(status),
    }
}

async fn take(link: &Link, reference: &str) -> Result<Result<Lock, Status>, StoreError> {
    let lease = link.lease(TTL).await?;
    match Ingest::open(link, Some(&lease), stat(reference.to_owned())).await {
        Ok(ingest) => {
            let (wanted, unwanted) = oneshot::channel();
            let task = tokio::spawn(hold(link.clone(), lease, ingest, unwanted));
            Ok(Ok(Lock(Box::new(Holder { wanted, task }))))
        }
        Err(status) => {
            link.end_lease(lease, false).await?;
            Ok(Err(status))
        }
    }
}

async fn hold(link: Link, lease: Lease, ingest: Ingest, unwanted: oneshot::Receiver<()>) {
    // Both ways for the sender to go, release and drop, come as the same error.
    let _ = unwanted.await;
    if let Err(status) = ingest.abort(&link, Some(&lease)).await {
        tracing::debug!(%status, "a lock's ingest stays until its lease expires");
    }
    if let Err(error) = link.end_lease(lease, false).await {
        tracing::debug!(%error, "a lock's lease stays until it expires");
    }
}
