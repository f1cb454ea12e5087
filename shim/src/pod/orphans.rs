//! Removes containers whose daemon is gone.
//!
//! After a daemon was killed, containerd calls `delete` only for those of its containers for which it has called `start`. Since 2.0 it
//! calls `start` only for a pod's sandbox. So the `delete` of a sandbox also removes the remains of its pod. containerd silently forgets
//! the other containers. If the sandbox was removed before them, the next daemon of the namespace removes them.
//!
//! A record of the container's maker ([`Claimed`]) identifies its owner: the pod's name, and the daemon, which must have ended.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::pod::folders;
use crate::pod::job::Remove;
use crate::pod::pending::{self, TAKEN};
use crate::pod::record::Claimed;

/// Time limit for the end of a daemon that has closed its connections.
const END_LIMIT: Duration = Duration::from_secs(1);
/// Pause between two polls.
const PAUSE: Duration = Duration::from_millis(10);

/// The removal of a pod's remains, in progress.
pub(crate) struct Sweep(mpsc::Receiver<()>);

impl Sweep {
    /// Starts to remove the containers of a pod except its sandbox, if their daemon has ended. All removals are recorded before the first
    /// one begins: if this process is killed, the next daemon completes them.
    pub(crate) fn begin(address: &Path, namespace: &str, pod: &str) -> Self {
        let (folder, pod, span) = (folders::containers(address, namespace), pod.to_owned(), tracing::Span::current());
        let (done, sweep) = mpsc::channel();
        thread::spawn(move || {
            let _entered = span.entered();
            let removals = of_pod(&folder, &pod).into_iter().filter_map(pending::take).collect();
            remove_all(removals);
            // The receiver may have reached its time limit.
            let _ = done.send(());
        });
        Self(sweep)
    }

    /// Waits until all are removed; returns whether they are.
    pub(crate) fn wait(self, limit: Duration) -> bool {
        // A panic of the thread has printed its message.
        !matches!(self.0.recv_timeout(limit), Err(mpsc::RecvTimeoutError::Timeout))
    }
}

/// Returns the containers of a namespace that no client will delete: their daemon has ended, and containerd has removed their bundle.
pub(crate) fn take_forgotten(address: &Path, namespace: &str) -> Vec<(Option<std::path::PathBuf>, Remove)> {
    let is_forgotten = |claimed: &Claimed| {
        claimed.has_no_daemon() && !claimed.bundle.as_os_str().is_empty() && is_gone(&claimed.bundle)
    };
    let found = of_folder(&folders::containers(address, namespace));
    found
        .into_iter()
        .filter(|(claimed, _)| is_forgotten(claimed))
        .filter_map(|(_, remove)| pending::take(remove))
        .collect()
}

/// Returns whether a file or folder certainly does not exist.
pub(crate) fn is_gone(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// Finds the containers of a pod without a daemon. Waits for a daemon that is about to end.
fn of_pod(folder: &Path, pod: &str) -> Vec<Remove> {
    let begun = Instant::now();
    loop {
        let found: Vec<_> =
            of_folder(folder).into_iter().filter(|(claimed, remove)| claimed.pod == pod && remove.id != pod).collect();
        if found.iter().all(|(claimed, _)| claimed.has_no_daemon()) || begun.elapsed() > END_LIMIT {
            return found
                .into_iter()
                .filter(|(claimed, _)| claimed.has_no_daemon())
                .map(|(_, remove)| remove)
                .collect();
        }
        thread::sleep(PAUSE);
    }
}

/// Lists the containers with a folder here, including those being removed.
fn of_folder(folder: &Path) -> Vec<(Claimed, Remove)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let containers = entries.filter_map(|entry| {
        let claimed = Claimed::load(&entry.path())?;
        let id = entry.file_name().to_str()?.trim_start_matches(TAKEN).to_owned();
        let remove = Remove { id, bundle: claimed.bundle.clone(), folder: entry.path(), ..Remove::default() };
        Some((claimed, remove))
    });
    containers.collect()
}

/// Removes the containers. Kills the processes of all of them first, so that none waits for the hooks of another.
fn remove_all(removals: Vec<(Option<std::path::PathBuf>, Remove)>) {
    removals.iter().for_each(|(_, remove)| remove.kill());
    for (note, remove) in removals {
        match (remove.run(), note) {
            (Ok(()), note) => {
                note.as_deref().map(pending::forget);
                tracing::info!(id = remove.id, "removed the remains of a container whose daemon was killed");
            }
            (Err(Failure { message, .. }), _) => {
                tracing::warn!(
                    id = remove.id,
                    error = message,
                    "cannot remove the remains of a container whose daemon was killed"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::pid::ProcessId;

    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("prewasi-orphans-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn container(folder: &Path, id: &str, pod: &str, daemon: Option<ProcessId>) {
        fs::create_dir(folder.join(id)).unwrap();
        let mut claimed = Claimed::by_this_process().unwrap();
        (claimed.pod, claimed.daemon, claimed.bundle) = (pod.to_owned(), daemon, folder.join("bundle"));
        claimed.save(&folder.join(id)).unwrap();
    }

    /// A sweep finds only containers of its pod, without the sandbox, and only those whose daemon is known to have ended.
    #[test]
    fn pods_are_told_apart() {
        let folder = folder("pods");
        let dead = Some(ProcessId::ended(1));
        let alive = Some(ProcessId::of(std::process::id().cast_signed()).unwrap());
        for (id, pod, daemon) in [
            ("p", "p", dead),
            ("a", "p", dead),
            ("~b", "p", dead),
            ("c", "q", dead),
            ("d", "p", None),
            ("e", "p", alive),
        ] {
            container(&folder, id, pod, daemon);
        }
        fs::create_dir(folder.join("f")).unwrap();
        let mut found: Vec<(String, String)> = of_pod(&folder, "p")
            .into_iter()
            .map(|remove| (remove.id, remove.folder.file_name().unwrap().to_str().unwrap().to_owned()))
            .collect();
        found.sort();
        assert_eq!(found, [("a".to_owned(), "a".to_owned()), ("b".to_owned(), "~b".to_owned())]);
        fs::remove_dir_all(folder).unwrap();
    }
}
