//! Slots: they limit how many layers a node compiles at the same time, in all processes.
//!
//! A slot is an advisory lock on a file in the runtime folder: it is free when its holder ends, however it ends.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::Settings;

/// Interval at which a waiter tries to get a slot.
const POLL: Duration = Duration::from_millis(100);

/// A slot, released on drop.
pub(crate) struct Slot {
    _file: File,
}

/// Waits for a slot. If the runtime folder cannot be used there is no limit, so that a container can start.
pub(crate) async fn acquire(settings: &Settings) -> Option<Slot> {
    let folder = settings.runtime_dir.join("slots");
    if let Err(error) = std::fs::create_dir_all(&folder) {
        tracing::debug!(folder = %folder.display(), %error, "cannot limit compiles");
        return None;
    }
    let mut said = false;
    loop {
        for number in 0..settings.compile.slots.max(1) {
            let path = folder.join(number.to_string());
            let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
            let file = match open {
                Ok(file) => file,
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "cannot limit compiles");
                    return None;
                }
            };
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Some(Slot { _file: file });
            }
        }
        if !said {
            tracing::debug!(slots = settings.compile.slots, "waiting for other compiles to end");
            said = true;
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With two slots the third caller waits until a slot is released.
    #[tokio::test]
    async fn limits() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut settings = Settings::new("/nowhere", "test");
        settings.runtime_dir = dir.path().to_owned();
        settings.compile.slots = 2;
        let first = acquire(&settings).await.expect("first");
        let _second = acquire(&settings).await.expect("second");
        assert!(tokio::time::timeout(POLL * 3, acquire(&settings)).await.is_err(), "a third slot was given");
        drop(first);
        assert!(tokio::time::timeout(POLL * 100, acquire(&settings)).await.is_ok(), "no slot after one was freed");
    }
}
