//! Ends a daemon that containerd has abandoned.
//!
//! containerd normally ends a daemon by a call, but in some cases the call never comes. containerd kills a `start` whose caller gives up,
//! possibly when the daemon runs already, and then calls no `delete`. containerd also gives up a daemon that was stopped, or could not
//! run. When that daemon continues, containerd has deleted its containers from disk, or tried to and ran out of time. So the daemon
//! ends by itself.
//!
//! An abandoned daemon has no containers, or only containers without a bundle. containerd makes the bundle before it creates the container.
//! It keeps the bundle of a container that it knows, also while it is restarted. The daemon removes a container without a bundle in any
//! state: no client can manage it any more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use prewasi_precompiler::chain;
use tracing::Instrument as _;

use super::{Pod, abandon};
use crate::pod::container::Container;
use crate::pod::job::Job;
use crate::pod::orphans::is_gone;

/// Pause between two checks. A daemon or container counts as abandoned after two checks in a row, that is after one to two pauses.
/// containerd creates the first container right after `start`, within the time of two local calls; half a minute leaves room for a busy
/// machine. The daemon counts checks instead of time, because a daemon that was stopped first handles containerd's pending calls.
const PAUSE: Duration = Duration::from_secs(30);

/// The result of a check.
#[derive(Default)]
struct Look {
    /// Ids of containers without a bundle.
    forgotten: HashSet<String>,
    /// Whether there are no other containers.
    is_all: bool,
}

impl Pod {
    /// Removes abandoned containers, and ends the daemon as soon as it is abandoned itself.
    pub(crate) async fn end_when_abandoned(&self) {
        let mut before = Look::default();
        loop {
            tokio::time::sleep(PAUSE).await;
            let (now, forgotten) = self.look();
            for container in forgotten.iter().filter(|container| before.forgotten.contains(&container.id)) {
                self.give_up(container).instrument(container.span.clone()).await;
            }
            if now.is_all && before.is_all {
                tracing::warn!(pod = self.pod, "containerd no longer uses this daemon; ending it");
                self.shutdown.notify_one();
                return;
            }
            before = now;
        }
    }

    fn look(&self) -> (Look, Vec<Arc<Container>>) {
        let containers = self.containers();
        let forgotten: Vec<_> = containers.values().filter(|container| is_gone(&container.bundle)).cloned().collect();
        let is_all = forgotten.len() == containers.len();
        (Look { forgotten: forgotten.iter().map(|container| container.id.clone()).collect(), is_all }, forgotten)
    }

    /// Removes a container that containerd has forgotten.
    async fn give_up(&self, container: &Container) {
        abandon(&container.init);
        let _turn = container.init.turn.lock().await;
        // The creation may have been cancelled, or a client may have deleted the container after all.
        if !self.containers().get(&container.id).is_some_and(|known| is_gone(&known.bundle)) {
            return;
        }
        tracing::warn!("containerd no longer knows this container; removing it");
        match self.helpers.work(Job::Remove(Box::new(self.remains(container)))).await {
            Ok(()) => self.forget(container),
            Err(error) => {
                tracing::error!(error = chain(&error), "cannot remove a container that containerd no longer knows");
            }
        }
    }
}
