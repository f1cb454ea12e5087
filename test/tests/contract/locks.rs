//! Clauses on locks.

use std::time::{Duration, Instant};

use prewasi_cache::Lock;
use prewasi_test::eventually;

use super::{Subject, containerd};

/// How soon a lock must be free whose holder has just gone; two seconds are promised, the machine may be busy.
const SOON: Duration = Duration::from_secs(10);

async fn try_lock(subject: &Subject, name: &str) -> Option<Lock> {
    subject.store.try_lock(name).await.expect("the store answers")
}

/// A lock has one holder; another lock is another lock; released, it is free before the release returns.
pub(super) async fn lock_has_one_holder(subject: Subject) {
    let name = format!("sha256:{}/engine/version with spaces/{}", "0".repeat(64), "long".repeat(100));
    let held = try_lock(&subject, &name).await.expect("the lock is free");
    for _ in 0..3 {
        assert!(try_lock(&subject, &name).await.is_none(), "two hold the lock");
    }
    let other = try_lock(&subject, "another").await.expect("another lock is free");
    other.release().await;
    held.release().await;
    let held = try_lock(&subject, &name).await.expect("the released lock is free");
    held.release().await;
    subject.assert_no_ingest().await;
    subject.finish().await;
}

/// A dropped lock is free soon, and leaves nothing.
pub(super) async fn dropped_lock_is_free(subject: Subject) {
    let held = try_lock(&subject, "dropped").await.expect("the lock is free");
    assert!(try_lock(&subject, "dropped").await.is_none(), "two hold the lock");
    drop(held);
    let held = becomes_free(&subject, "dropped").await;
    held.release().await;
    subject.assert_no_ingest().await;
    subject.finish().await;
}

/// The lock of a process that is killed is free soon; its next holder leaves nothing of either.
pub(super) async fn killed_holder_frees_the_lock(subject: Subject) {
    let mut holder = subject.hold_elsewhere("killed");
    assert!(try_lock(&subject, "killed").await.is_none(), "two hold the lock");
    holder.kill().expect("the holder can be killed");
    holder.wait().expect("the holder can be waited for");
    let held = becomes_free(&subject, "killed").await;
    held.release().await;
    subject.assert_no_ingest().await;
    if let Some(namespace) = subject.namespace() {
        assert_eq!(containerd::other_leases(namespace, subject.lease()).await, [""; 0]);
    }
    subject.finish().await;
}

/// A process that stops asking for a lock, at any moment, leaves nothing of it.
pub(super) async fn lock_that_nobody_waits_for_is_free(subject: Subject) {
    for step in 0..60 {
        let limit = Duration::from_micros(250 * step);
        if let Ok(Some(held)) = tokio::time::timeout(limit, try_lock(&subject, "unwanted")).await {
            held.release().await;
        }
    }
    let left = async || match subject.namespace() {
        Some(namespace) => containerd::other_leases(namespace, subject.lease()).await,
        None => Vec::new(),
    };
    let probe = async || Some(left().await).filter(Vec::is_empty).ok_or_else(|| "a lease".to_owned());
    // The limit is shorter than the time after which others look for a silent holder: these would remove the remains.
    eventually("nothing of the lock", SOON, probe).await;
    subject.assert_no_ingest().await;
    becomes_free(&subject, "unwanted").await.release().await;
    subject.finish().await;
}

async fn becomes_free(subject: &Subject, name: &str) -> Lock {
    let probe = async || try_lock(subject, name).await.ok_or_else(|| "it is held".to_owned());
    eventually(&format!("the lock {name:?}"), SOON, probe).await
}

/// Of many who ask at once exactly one gets the lock, and nobody is kept waiting for the answer.
pub(super) async fn one_of_many_gets_the_lock(subject: Subject) {
    let mut holder = None;
    let start = Instant::now();
    for _ in 0..3 {
        let ask = async || try_lock(&subject, "many").await;
        let (a, b, c, d, e) = tokio::join!(ask(), ask(), ask(), ask(), ask());
        let (f, g, h, i, j) = tokio::join!(ask(), ask(), ask(), ask(), ask());
        let mut got: Vec<Lock> = [a, b, c, d, e, f, g, h, i, j].into_iter().flatten().collect();
        assert_eq!(got.len(), usize::from(holder.is_none()), "who gets the lock");
        holder = holder.or(got.pop());
    }
    // Asking for the ref itself would take containerd 1.7 half a second each time.
    assert!(start.elapsed() < Duration::from_secs(5), "30 answers took {:?}", start.elapsed());
    holder.expect("the lock was free").release().await;
    subject.finish().await;
}
