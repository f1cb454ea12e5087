//! Detects out-of-memory kills of a container's processes.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use crate::node::cgroup::Cgroup;
use crate::node::readiness;

/// A watch on one container.
pub(crate) struct OomWatch {
    changed: AsyncFd<OwnedFd>,
    source: Source,
}

/// The kernel's way to report kills.
enum Source {
    /// cgroup v1 signals an eventfd, also when the cgroup is removed.
    Legacy { folder: PathBuf },
    /// cgroup v2 counts in a file.
    Unified { file: PathBuf, seen: AtomicU64 },
}

impl OomWatch {
    /// Starts the watch; `None` if the container's memory is not counted.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn new(cgroup: &Cgroup) -> io::Result<Option<Self>> {
        let (changed, source) = if let Some(folder) = cgroup.unified() {
            let file = folder.join("memory.events");
            let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            match inotify::add_watch(&watch, &file, inotify::WatchFlags::MODIFY) {
                Err(rustix::io::Errno::NOENT) => return Ok(None),
                other => other?,
            };
            let seen = AtomicU64::new(kills(&file));
            (watch, Source::Unified { file, seen })
        } else {
            let Some(folder) = cgroup.controller("memory") else { return Ok(None) };
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let control = File::open(folder.join("memory.oom_control"))?;
            let request = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
            File::options().write(true).open(folder.join("cgroup.event_control"))?.write_all(request.as_bytes())?;
            (event, Source::Legacy { folder: folder.to_owned() })
        };
        Ok(Some(Self { changed: readiness::watch(changed)?, source }))
    }

    /// Waits for a notification of the kernel.
    pub(crate) async fn changed(&self) {
        match self.changed.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            // The runtime is ending.
            Err(_) => std::future::pending().await,
        }
    }

    /// Returns whether there was a kill since the last call.
    pub(crate) fn occurred(&self) -> bool {
        let mut buffer = [0; 4096];
        let told = rustix::io::read(self.changed.get_ref(), &mut buffer).is_ok();
        match &self.source {
            Source::Legacy { folder } => told && folder.exists(),
            Source::Unified { file, seen } => {
                let now = kills(file);
                now > seen.swap(now, Ordering::Relaxed)
            }
        }
    }
}

/// Reads the number of killed processes.
fn kills(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With cgroup v2 a change of the file counts once, if more processes have been killed.
    #[test]
    fn version_2_counts() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = std::env::temp_dir().join(format!("prewasi-oom-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("memory.events");
        fs::write(&file, "max 0\noom_kill 1\n").unwrap();
        runtime.block_on(async {
            let watch = OomWatch::new(&Cgroup::only_unified(&folder)).unwrap().unwrap();
            assert!(!watch.occurred());
            fs::write(&file, "max 7\noom_kill 1\n").unwrap();
            watch.changed().await;
            assert!(!watch.occurred());
            fs::write(&file, "max 7\noom_kill 2\n").unwrap();
            watch.changed().await;
            assert!(watch.occurred());
            assert!(!watch.occurred());
        });
        fs::remove_dir_all(folder).unwrap();
    }
}
