//! Calls that act on a container's cgroups: pausing, limits, out-of-memory events.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libcontainer::oci_spec::runtime::LinuxResources;

use super::Pod;
use tracing::Instrument as _;

use crate::api::error::TaskError;
use crate::api::events::Event;
use crate::node::cgroup::{self, Cgroup};
use crate::node::oom::OomWatch;
use crate::pod::container::{Container, Phase};
use crate::pod::job::{Job, Limit};
use crate::pod::spec;

/// Time limit for the kernel to freeze all processes.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two polls.
const PAUSE: Duration = Duration::from_millis(2);

impl Pod {
    /// Stops all processes of a container until it is resumed.
    ///
    /// # Errors
    /// [`TaskError::State`] if it does not run, or is paused.
    pub(crate) async fn pause(self: Arc<Self>, id: String) -> Result<(), TaskError> {
        self.set_paused(&id, true).await?;
        self.events.publish(&id, Event::Paused);
        Ok(())
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// [`TaskError::State`] if it is not paused.
    pub(crate) async fn resume(self: Arc<Self>, id: String) -> Result<(), TaskError> {
        self.set_paused(&id, false).await?;
        self.events.publish(&id, Event::Resumed);
        Ok(())
    }

    async fn set_paused(&self, id: &str, pause: bool) -> Result<(), TaskError> {
        let container = self.container(id)?;
        let _gate = container.gate.write().await;
        let action = if pause { "pause" } else { "resume" };
        let phase = container.init.state().phase;
        let paused = container.is_paused();
        if phase != Phase::Running || paused == pause {
            let state = if paused { "paused" } else { phase.word() };
            return Err(TaskError::State { action, id: id.to_owned(), state });
        }
        let frozen = freeze(&container.cgroup().unwrap_or_default(), pause).await;
        frozen.map_err(|source| TaskError::Io { action, id: id.to_owned(), source })?;
        container.set_paused(pause);
        Ok(())
    }

    /// Changes the limits of a container that has not ended.
    ///
    /// # Errors
    /// [`TaskError`].
    pub(crate) async fn update(self: Arc<Self>, id: String, resources: Vec<u8>) -> Result<(), TaskError> {
        let container = self.container(&id)?;
        let wanted: LinuxResources =
            serde_json::from_slice(&resources).map_err(|source| TaskError::Resources { id: id.clone(), source })?;
        if !container.init.is_alive() {
            let state = container.init.state().phase.word();
            return Err(TaskError::State { action: "change the limits of", id, state });
        }
        let cgroup = container.cgroup().unwrap_or_default();
        if cgroup.unit().is_some() {
            // A request to systemd takes time, so a helper makes it.
            let job = Job::Limit(Box::new(Limit { bundle: container.bundle.clone(), cgroup, wanted }));
            let changed = self.helpers.work(job).await;
            return changed.map_err(|source| TaskError::Failed { action: "change the limits of", id, source });
        }
        let spec = spec::load(&container.bundle).ok();
        let own = spec.as_ref().and_then(spec::resources);
        cgroup::change(&cgroup, &wanted, own).map_err(|source| TaskError::Limits { id, source })
    }

    /// Starts to watch a container for out-of-memory kills.
    pub(super) fn watch_memory(self: &Arc<Self>, container: &Arc<Container>) {
        let watch = match OomWatch::new(&container.cgroup().unwrap_or_default()) {
            Ok(Some(watch)) => watch,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot watch whether the container runs out of memory");
                return;
            }
        };
        container.set_memory_watch(watch);
        let (shim, container) = (self.clone(), container.clone());
        let span = container.span.clone();
        let watching = async move {
            while let Some(watch) = container.memory_watch() {
                tokio::select! {
                    _ = container.init.wait() => return,
                    () = watch.changed() => shim.tell_memory(&container),
                }
            }
        };
        tokio::spawn(watching.instrument(span));
    }

    /// Publishes an out-of-memory event, if there was one. It must come before the event of the container's end.
    pub(super) fn tell_memory(&self, container: &Container) {
        if container.memory_watch().is_some_and(|watch| watch.occurred()) {
            tracing::info!("container ran out of memory");
            self.events.publish(&container.id, Event::Oom);
        }
    }
}

async fn freeze(cgroup: &Cgroup, frozen: bool) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        // Written in each round: with cgroup v1 a process that was forked meanwhile may have escaped.
        cgroup.set_frozen(frozen)?;
        if cgroup.is_frozen()? == frozen {
            return Ok(());
        }
        if begun.elapsed() > FREEZE_LIMIT {
            cgroup.thaw();
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
