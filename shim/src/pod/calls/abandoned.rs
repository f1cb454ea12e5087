//! The end of a daemon that nobody asks for any more.
//!
//! containerd ends a daemon by a call, and in some cases never makes it. It kills a `start` whose caller gives up, maybe when
//! the daemon runs already, and calls no `delete` then. And a daemon that was stopped, or could not run, is given up: when it
//! goes on its containers have been deleted from disk, or should have been, had that not taken too long. Such a daemon ends by itself.
//!
//! It is recognised by its containers: it has none, or only such whose bundle is gone. containerd keeps the bundle of a container
//! that it knows, also while it is restarted, and makes it before it asks for the container. A container whose bundle is gone is removed,
//! whatever it does: nobody can ask for that any more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use prewasi_precompiler::chain;
use tracing::Instrument as _;

use super::{Pod, abandon};
use crate::pod::container::Container;
use crate::pod::job::Job;
use crate::pod::orphans::is_gone;

/// Pause between two looks. A daemon or a container is abandoned if it is so at two looks in a row, that is for at least this long and for
/// twice as long at most. containerd asks for the first container right after `start`, within the time of two local calls;
/// half a minute leaves room for a machine that is busy with much else. Looks are counted, not the time: after a daemon was
/// stopped it first hears what containerd has to say.
const PAUSE: Duration = Duration::from_secs(30);

/// What a look has shown.
#[derive(Default)]
struct Look {
    /// Ids of containers without a bundle.
    forgotten: HashSet<String>,
    /// There are no others.
    is_all: bool,
}

impl Pod {
    /// Removes containers that are abandoned, and ends the daemon as soon as it is abandoned itself.
    pub(crate) async fn end_when_abandoned(&self) {
        let mut before = Look::default();
        loop {
            tokio::time::sleep(PAUSE).await;
            let (now, forgotten) = self.look();
            for container in forgotten.iter().filter(|container| before.forgotten.contains(&container.id)) {
                self.give_up(container).instrument(container.span.clone()).await;
            }
            if now.is_all && before.is_all {
                tracing::warn!(pod = self.pod, "nobody asks for this daemon any more; it ends");
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
        // Its creation may have been given up, or somebody may have deleted it after all.
        if !self.containers().get(&container.id).is_some_and(|known| is_gone(&known.bundle)) {
            return;
        }
        tracing::warn!("containerd has forgotten this container; it is removed");
        match self.helpers.work(Job::Remove(Box::new(self.remains(container)))).await {
            Ok(()) => self.forget(container),
            Err(error) => {
                tracing::error!(error = chain(&error), "cannot remove a container that containerd has forgotten");
            }
        }
    }
}
