//! Records of removals in progress: containerd gives a shim's `delete` five seconds, and then kills it.
//!
//! `delete` records a removal before it begins, and deletes the record when all is removed. The next daemon that starts, for any pod,
//! completes removals whose process has ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::node::pid::ProcessId;
use crate::pod::folders;
use crate::pod::job::Remove;
use crate::pod::record::Claimed;

/// Version of the format; a record of another version is left alone.
const VERSION: u32 = 1;
/// Prefix of the folder of a container that is being removed. No id begins with it.
pub(crate) const TAKEN: char = '~';

/// The record of a removal.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    version: u32,
    /// The removing process.
    owner: ProcessId,
    remove: Remove,
    /// The container at that time: another one may have its id now.
    claimed: Option<Claimed>,
}

/// Records that the calling process is about to remove a container. Returns the file of the record, for [`forget`].
///
/// # Errors
/// The system's error.
pub(crate) fn note(remove: &Remove) -> io::Result<PathBuf> {
    note_in(&folders::removals(), remove)
}

fn note_in(folder: &Path, remove: &Remove) -> io::Result<PathBuf> {
    let owner = ProcessId::of(std::process::id().cast_signed())?;
    let path = note_of(folder, &remove.folder);
    let new = path.with_extension(std::process::id().to_string());
    let claimed = Claimed::load(&remove.folder);
    fs::create_dir_all(folder)?;
    fs::write(&new, serde_json::to_vec(&Note { version: VERSION, owner, remove: remove.clone(), claimed })?)?;
    fs::rename(new, &path).map(|()| path)
}

fn note_of(notes: &Path, folder: &Path) -> PathBuf {
    notes.join(folders::name_of(&[folder.as_os_str().as_encoded_bytes()]))
}

/// Deletes a record: all is removed.
pub(crate) fn forget(note: &Path) {
    // If the record stays, the removal is repeated once, and finds nothing to remove.
    let _ = fs::remove_file(note);
}

/// Takes over a container that no process removes. Its id is free at once, and the removal is recorded for the calling process. `None` if
/// another process removes it. If the record cannot be written, for example on a full disk, an interrupted removal is not completed.
pub(crate) fn take(remove: Remove) -> Option<(Option<PathBuf>, Remove)> {
    take_in(&folders::removals(), remove)
}

fn take_in(notes: &Path, mut remove: Remove) -> Option<(Option<PathBuf>, Remove)> {
    if is_at_work(notes, &remove.folder) {
        return None;
    }
    let moved = out_of_the_way(&remove.folder)?;
    if moved != remove.folder {
        match fs::rename(&remove.folder, &moved) {
            Ok(()) => remove.folder = moved,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            // An earlier container of that id is being removed: this one is removed in its place.
            Err(_) => {}
        }
    }
    Some((note_in(notes, &remove).ok(), remove))
}

/// Returns whether a running process removes the container of a folder.
fn is_at_work(notes: &Path, folder: &Path) -> bool {
    let note = fs::read(note_of(notes, folder)).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
    note.is_some_and(|note| note.owner.is_running())
}

/// Returns the path to which a container's folder is moved during its removal. No id begins with the prefix.
fn out_of_the_way(folder: &Path) -> Option<PathBuf> {
    let name = folder.file_name()?.to_str()?.trim_start_matches(TAKEN);
    Some(folder.with_file_name(format!("{TAKEN}{name}")))
}

/// Takes over removals without a running process, with their records.
pub(crate) fn take_over() -> Vec<(PathBuf, Remove)> {
    take_over_in(&folders::removals())
}

fn take_over_in(folder: &Path) -> Vec<(PathBuf, Remove)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|entry| take_over_one(folder, &entry.path())).collect()
}

fn take_over_one(folder: &Path, path: &Path) -> Option<(PathBuf, Remove)> {
    let note: Note = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    if note.version != VERSION || note.owner.is_running() {
        return None;
    }
    let mut remove = note.remove;
    // The id becomes free for a new container.
    let moved = out_of_the_way(&remove.folder)?;
    let same = note.claimed.is_some() && Claimed::load(&remove.folder) == note.claimed;
    let taken = same && (moved == remove.folder || fs::rename(&remove.folder, &moved).is_ok());
    remove.folder = moved;
    // The old record is deleted last: without a record a removal would not be completed.
    let new = if taken { note_in(folder, &remove).ok() } else { None };
    if new.as_deref() != Some(path) {
        forget(path);
    }
    Some((new?, remove))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> (PathBuf, PathBuf) {
        let folder = std::env::temp_dir().join(format!("prewasi-pending-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("c/a")).unwrap();
        (folder.join("r"), folder.join("c/a"))
    }

    /// Assigns a record to a process that has ended.
    fn orphan(path: &Path) {
        let mut note: Note = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        note.owner = ProcessId::ended(1);
        fs::write(path, serde_json::to_vec(&note).unwrap()).unwrap();
    }

    /// A removal is taken over from an ended process, by one process at a time, and the id is free at once.
    #[test]
    fn removals_are_taken_over() {
        let (notes, container) = folder("taken");
        let claimed = Claimed::by_this_process().unwrap();
        claimed.save(&container).unwrap();
        let remove = Remove { id: "a".to_owned(), folder: container.clone(), ..Remove::default() };
        assert!(take_over_in(&notes).is_empty());
        let path = note_in(&notes, &remove).unwrap();
        assert!(take_over_in(&notes).is_empty());
        orphan(&path);
        let moved = container.with_file_name("~a");
        let taken = take_over_in(&notes);
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].1, Remove { folder: moved.clone(), ..remove });
        assert!(!container.exists() && Claimed::load(&moved) == Some(claimed));
        assert!(take_over_in(&notes).is_empty());
        // The taking process has ended too.
        orphan(&taken[0].0);
        let again = take_over_in(&notes);
        assert_eq!(again, taken);
        forget(&again[0].0);
        assert_eq!(fs::read_dir(&notes).unwrap().count(), 0);
        fs::remove_dir_all(notes.parent().unwrap()).unwrap();
    }

    /// A new container with the id of one in removal is left alone.
    #[test]
    fn later_containers_stay() {
        let (notes, container) = folder("later");
        Claimed::by_this_process().unwrap().save(&container).unwrap();
        let remove = Remove { id: "a".to_owned(), folder: container.clone(), ..Remove::default() };
        orphan(&note_in(&notes, &remove).unwrap());
        let mut later = Claimed::by_this_process().unwrap();
        later.init = Some(later.helper);
        later.save(&container).unwrap();
        assert!(take_over_in(&notes).is_empty() && container.exists());
        assert_eq!(fs::read_dir(&notes).unwrap().count(), 0);
        fs::remove_dir_all(notes.parent().unwrap()).unwrap();
    }
}
