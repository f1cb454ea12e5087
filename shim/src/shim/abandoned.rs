//! The end of a daemon that nobody asks for any more.
//!
//! containerd ends a daemon by a call, and in some cases never makes it. It kills a `start` whose caller gives up, maybe when
//! the daemon runs already, and calls no `delete` then. And a daemon that was stopped, or could not run, is given up: when it
//! goes on its containers have been deleted from disk. Such a daemon ends by itself.
//!
//! It is recognised by its containers: it has none, or only such that have ended and whose bundle is gone. containerd keeps the
//! bundle of a container that it knows, also while it is restarted, and makes it before it asks for the container.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::Shim;
use crate::container::Container;

/// Pause between two looks. A daemon is abandoned if it is so at two looks in a row, that is for at least this long and for
/// twice as long at most. containerd asks for the first container right after `start`, within the time of two local calls;
/// half a minute leaves room for a machine that is busy with much else. Looks are counted, not the time: after a daemon was
/// stopped it first hears what containerd has to say.
const PAUSE: Duration = Duration::from_secs(30);

impl Shim {
    /// Ends the daemon as soon as it is abandoned.
    pub(crate) async fn end_when_abandoned(&self) {
        let mut before = false;
        loop {
            tokio::time::sleep(PAUSE).await;
            let now = self.is_abandoned();
            if now && before {
                tracing::warn!(pod = self.pod, "nobody asks for this daemon any more; it ends");
                self.shutdown.notify_one();
                return;
            }
            before = now;
        }
    }

    fn is_abandoned(&self) -> bool {
        self.containers().values().all(|container| is_forgotten(container))
    }
}

/// Says whether a container has ended and containerd has removed its bundle.
fn is_forgotten(container: &Container) -> bool {
    container.init.exit().is_some() && is_gone(&container.bundle)
}

fn is_gone(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Phase;
    use crate::options::RuntimeOptions;
    use crate::process::Exit;
    use crate::stdio::StdioPaths;
    use crate::trace::Trace;

    /// A container that has ended counts until its bundle is gone; one that is made or runs counts in any case.
    #[test]
    fn containers_count_until_they_are_forgotten() {
        let container = |bundle: &Path| {
            let (stdio, options) = (StdioPaths::default(), RuntimeOptions::default());
            Container::new("a".to_owned(), bundle.to_owned(), stdio, options, Trace::default())
        };
        let known = container(&std::env::temp_dir());
        let forgotten = container(&std::env::temp_dir().join(format!("prewasi-gone-{}", std::process::id())));
        assert!(!is_forgotten(&known) && !is_forgotten(&forgotten), "both are being created");
        for container in [&known, &forgotten] {
            container.init.state().phase = Phase::Running;
            assert!(!is_forgotten(container), "it runs");
            container.init.end(Exit::killed());
        }
        assert!(!is_forgotten(&known));
        assert!(is_forgotten(&forgotten));
    }
}
