//! Removals that have begun and may have been cut off: containerd gives a shim's `delete` five seconds, and kills it then.
//!
//! `delete` notes what it removes before it begins, and takes the note back when all is gone. The next daemon that starts, of whichever
//! pod, finishes removals whose process has ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::node::pid::ProcessId;
use crate::pod::folders;
use crate::pod::job::Remove;
use crate::pod::record::Claimed;

/// Version of the format; a note of another version is left alone.
const VERSION: u32 = 1;
/// How the name of a folder begins whose container is being removed. No id begins like this.
pub(crate) const TAKEN: char = '~';

/// A removal that has been noted.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    version: u32,
    /// The process that removes.
    owner: ProcessId,
    remove: Remove,
    /// The container as it was then: another one may have its id by now.
    claimed: Option<Claimed>,
}

/// Notes that the calling process is about to remove a container. Returns the file of the note, for [`forget`].
///
/// # Errors
/// What the system says.
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

/// Takes a note back: all is gone.
pub(crate) fn forget(note: &Path) {
    // A note that stays is followed once more, and finds nothing to remove.
    let _ = fs::remove_file(note);
}

/// Takes a container that nobody removes: its id is free at once, and the removal is noted as the calling process's. `None` if somebody
/// else is at it. Without a note, because the disk is full for example, nobody finishes what is cut off.
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
            // An earlier container of that id is being removed: this one is removed where it is.
            Err(_) => {}
        }
    }
    Some((note_in(notes, &remove).ok(), remove))
}

/// Says whether a process that runs removes the container of a folder.
fn is_at_work(notes: &Path, folder: &Path) -> bool {
    let note = fs::read(note_of(notes, folder)).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
    note.is_some_and(|note| note.owner.is_running())
}

/// Returns where a container's folder is moved to while it is removed. No id begins like this.
fn out_of_the_way(folder: &Path) -> Option<PathBuf> {
    let name = folder.file_name()?.to_str()?.trim_start_matches(TAKEN);
    Some(folder.with_file_name(format!("{TAKEN}{name}")))
}

/// Takes over the removals that nobody is at, with their notes.
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
    // Out of the way of a new container with that id.
    let moved = out_of_the_way(&remove.folder)?;
    let same = note.claimed.is_some() && Claimed::load(&remove.folder) == note.claimed;
    let taken = same && (moved == remove.folder || fs::rename(&remove.folder, &moved).is_ok());
    remove.folder = moved;
    // The old note goes last: a removal without a note is not finished.
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

    /// Gives a note to a process that has ended.
    fn orphan(path: &Path) {
        let mut note: Note = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        note.owner = ProcessId::ended(1);
        fs::write(path, serde_json::to_vec(&note).unwrap()).unwrap();
    }

    /// A removal is taken over from a process that has ended, by one process at a time, and the id is free at once.
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
        // Once more, after that process has ended too.
        orphan(&taken[0].0);
        let again = take_over_in(&notes);
        assert_eq!(again, taken);
        forget(&again[0].0);
        assert_eq!(fs::read_dir(&notes).unwrap().count(), 0);
        fs::remove_dir_all(notes.parent().unwrap()).unwrap();
    }

    /// A container that has the id of one that was to be removed is left alone.
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
