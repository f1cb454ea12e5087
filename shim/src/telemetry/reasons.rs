//! Collects the reasons of failures in libcontainer's processes.
//!
//! A failure may happen in a helper, in a process that libcontainer forks from it, or in a hook. These processes pass only the outermost
//! reason to each other; the rest goes to the log. So a helper opens a file in memory before it builds, which all of them inherit.
//! libcontainer's logged errors and the messages of hooks are written to it. If the build fails, the helper reads it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, OFlags, fcntl_setfl};
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// libcontainer's message about a failed `startContainer` hook.
const START_HOOKS: &str = "failed to run start container hooks";
/// Maximum size of all notes, in bytes; later ones are lost.
const MAX: u64 = 64 << 10;

/// The file of this process and its forks.
static FILE: Mutex<Option<File>> = Mutex::new(None);

/// A note in the file.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) message: String,
    /// Further fields of a log line.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) fields: BTreeMap<String, String>,
    /// Whether the message is complete by itself.
    #[serde(default)]
    pub(crate) complete: bool,
}

/// Opens the file, and returns its descriptor number for hooks.
///
/// # Errors
/// The system's error.
pub(crate) fn open() -> io::Result<RawFd> {
    // Hooks must inherit it. The container's program does not, because libcontainer closes all descriptors before.
    let file = File::from(rustix::fs::memfd_create("reasons", MemfdFlags::empty())?);
    fcntl_setfl(&file, OFlags::APPEND)?;
    let number = file.as_raw_fd();
    *FILE.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    Ok(number)
}

/// Closes the file without reading it.
pub(crate) fn close() {
    *FILE.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Closes the file, and returns its notes.
pub(crate) fn take() -> Vec<Note> {
    let file = FILE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut text = String::new();
    if let Some(mut file) = file {
        // Notes that cannot be read are ignored.
        let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
    }
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

impl Note {
    /// Makes a note whose message is complete by itself.
    pub(crate) fn complete(message: String) -> Self {
        Self { message, complete: true, ..Self::default() }
    }

    /// Appends the note to an inherited file.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn add_to(&self, number: BorrowedFd<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        let stat = rustix::fs::fstat(number)?;
        if u64::try_from(stat.st_size).is_ok_and(|size| size + line.len() as u64 <= MAX) {
            // Another process may write at the same time, so it is one call.
            rustix::io::write(number, &line)?;
        }
        Ok(())
    }

    fn add(&self) {
        if let Some(file) = &*FILE.lock().unwrap_or_else(PoisonError::into_inner) {
            // Without the note the reason is only shorter.
            let _ = self.add_to(file.as_fd());
        }
    }
}

/// Returns whether an event is noted: errors of libcontainer and its cgroup crate.
pub(crate) fn is_noted(metadata: &Metadata<'_>) -> bool {
    let theirs = ["libcontainer", "libcgroups"].iter().any(|name| metadata.target().starts_with(name));
    theirs && *metadata.level() == Level::ERROR
}

/// A tracing layer that writes notes while the file is open.
pub(crate) struct Notes;

impl<S: Subscriber> Layer<S> for Notes {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut note = Note::default();
        event.record(&mut note);
        if note.message == START_HOOKS {
            // This process is the container's, and its creation has been answered: only the container's output is left for a message.
            let reason = note.fields.get("err").map_or("", String::as_str);
            eprintln!("error: a hook of the phase startContainer has failed: {reason}");
        }
        note.add();
    }
}

impl Visit for Note {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.fields.insert(field.name().to_owned(), value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Errors of libcontainer are noted in order, with their fields, while the file is open.
    #[test]
    fn errors_are_noted() {
        use tracing_subscriber::filter::filter_fn;
        let subscriber = tracing_subscriber::registry().with(Notes.with_filter(filter_fn(is_noted)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "libcontainer::rootfs", "too early");
            open().unwrap();
            tracing::error!(target: "libcontainer::rootfs", err = ?io::ErrorKind::NotFound, "failed to {}", "x\ny");
            tracing::info!(target: "libcontainer::rootfs", "a step");
            tracing::error!(target: "other", "not theirs");
            Note::complete("all".to_owned()).add();
        });
        let notes = take();
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert_eq!(notes[0].message, "failed to x\ny");
        assert_eq!(notes[0].fields["err"], "NotFound");
        assert!(notes[1].complete && notes[1].message == "all");
        assert_eq!(take(), []);
    }
}
