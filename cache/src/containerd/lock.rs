//! Locks: an ingest ref held open. containerd lets one stream at a time hold a ref. It frees the ref when the connection ends, however the
//! process ended.
//!
//! The ref alone keeps two holders apart; the rest of this module serves the waiters. A request for a held ref is expensive: containerd
//! 1.7 answers after half a second, and its database is blocked for writers meanwhile. So the holder first takes a lease named after the
//! lock, which containerd grants or refuses at once. The holder then adds a byte to the ingest from time to time, as a sign of life. A
//! waiter reads the time of that sign, and requests the ref itself only after a period without one.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use containerd_client::services::v1::{ListRequest, StatusRequest};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::ingest::{Ingest, is_locked, stat};
use super::link::{ANSWER, Link, failure, within};
use crate::retry::{is_unavailable, pauses};
use crate::store::Held;
use crate::whole::whole;
use crate::{Digest, Lease, Lock, StoreError};

/// Lifetime of the lease of a holder that was killed, if no process requests the lock again. The lock itself may outlast its lease.
const TTL: Duration = Duration::from_secs(1800);

/// Interval between the holder's signs of life.
const BEAT: Duration = Duration::from_millis(300);

/// Time without a sign of life after which a waiter requests the ref itself.
const SILENCE: Duration = Duration::from_millis(1500);

/// Waiters that notice the silence request the ref one after the other, spread over this time; the first one cleans up for all.
const SPREAD: Duration = Duration::from_millis(500);

/// A task that holds the stream until the lock is released or dropped.
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

/// Tries to take the lock `name`. If the caller has stopped waiting when the lock is obtained, the lock is freed at once.
pub(super) async fn try_lock(link: &Link, name: &str) -> Result<Option<Lock>, StoreError> {
    let (link, name) = (link.clone(), name.to_owned());
    whole(async move { ask(link, &name).await }).await
}

/// Repeats the request until containerd grants or refuses it.
async fn ask(link: Link, name: &str) -> Result<Option<Lock>, StoreError> {
    // A name may be too long for a ref, or contain characters that a ref does not allow. Ref and lease have the same name.
    let lease = Lease(format!("prewasi-lock-{}", Digest::of(name.as_bytes()).hex()));
    let mut pauses = pauses();
    loop {
        let status = match attempt(&link, &lease).await {
            Ok(None) => return Ok(None),
            Ok(Some(ingest)) => {
                let (wanted, unwanted) = oneshot::channel();
                let task = tokio::spawn(hold(link, lease, ingest, unwanted));
                return Ok(Some(Lock(Box::new(Holder { wanted, task }))));
            }
            Err(status) if is_locked(&status) => return Ok(None),
            Err(status) => status,
        };
        match pauses.next().filter(|_| is_unavailable(&status)) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(failure("take", &format!("lock {name}"), status)),
        }
    }
}

async fn attempt(link: &Link, lease: &Lease) -> Result<Option<Ingest>, Status> {
    loop {
        let Some(sign) = last_sign(link, lease).await? else { return take(link, lease).await };
        // A sign of life in the future does not count: the clock was changed.
        if SystemTime::now().duration_since(sign).is_ok_and(|silence| silence < SILENCE) {
            return Ok(None);
        }
        let random = uuid::Uuid::new_v4().as_u128() % SPREAD.as_millis();
        tokio::time::sleep(Duration::from_millis(u64::try_from(random).unwrap_or(0))).await;
        if last_sign(link, lease).await? == Some(sign) {
            bury(link, lease).await?;
        }
    }
}

/// Returns the time of the holder's last sign of life; `None` without a trace of a holder.
async fn last_sign(link: &Link, lease: &Lease) -> Result<Option<SystemTime>, Status> {
    let request = link.request(StatusRequest { r#ref: lease.id().to_owned() }, None);
    let updated = match within(ANSWER, link.content().status(request)).await {
        Ok(answer) => answer.into_inner().status.and_then(|status| status.updated_at),
        Err(status) if status.code() == Code::NotFound => {
            let request = link.request(ListRequest { filters: vec![format!("id==\"{}\"", lease.id())] }, None);
            let answer = within(ANSWER, link.leases().list(request)).await?.into_inner();
            let Some(found) = answer.leases.into_iter().next() else { return Ok(None) };
            found.created_at
        }
        Err(status) => return Err(status),
    };
    Ok(Some(updated.and_then(|time| SystemTime::try_from(time).ok()).unwrap_or(SystemTime::UNIX_EPOCH)))
}

/// Takes the lease, and with it the right to request the ref; `None` if another process was faster.
async fn take(link: &Link, lease: &Lease) -> Result<Option<Ingest>, Status> {
    match link.create_lease(lease, TTL).await {
        Err(status) if status.code() == Code::AlreadyExists => return Ok(None),
        answer => answer?,
    }
    match Ingest::open(link, Some(lease), stat(lease.id().to_owned())).await {
        Ok(ingest) => Ok(Some(ingest)),
        Err(status) => {
            link.delete_lease(lease).await?;
            Err(status)
        }
    }
}

/// Removes the remains of a dead holder; for a living holder containerd answers "locked".
async fn bury(link: &Link, lease: &Lease) -> Result<(), Status> {
    let ingest = Ingest::open(link, None, stat(lease.id().to_owned())).await?;
    clear(link, lease, None, ingest).await
}

/// Removes ingest and lease while the ref is held, so that neither can belong to a successor; then frees the ref.
async fn clear(link: &Link, lease: &Lease, under: Option<&Lease>, ingest: Ingest) -> Result<(), Status> {
    let aborted = ingest.abort(link, under).await;
    let deleted = link.delete_lease(lease).await;
    ingest.close().await;
    aborted.and(deleted)
}

async fn hold(link: Link, lease: Lease, mut ingest: Ingest, mut unwanted: oneshot::Receiver<()>) {
    // Release and drop of the sender end the wait in the same way.
    while tokio::time::timeout(BEAT, &mut unwanted).await.is_err() {
        if let Err(status) = ingest.append(vec![0], ANSWER).await {
            tracing::debug!(%status, "a lock was lost");
            let _ = unwanted.await;
            break;
        }
    }
    if let Err(status) = clear(&link, &lease, Some(&lease), ingest).await {
        tracing::debug!(%status, "the trace of a lock stays until the next holder or the collector removes it");
    }
}
