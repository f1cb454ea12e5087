//! Corrections in a container's mount namespace after libcontainer has built it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Mount;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

use super::options::Propagation;
use super::options_of;
use crate::node::mounts::unescape;

/// A mount whose propagation differs from the one that libcontainer sets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Late {
    /// Its path in the container.
    path: PathBuf,
    propagation: Propagation,
}

/// Returns whether libcontainer must share all mounts, and the corrections that are needed after that. `list` is the `mountinfo` of this
/// process. `places` has the prepared mounts: path, destination, and index in the list of the spec.
pub(super) fn plan(list: &[u8], mounts: &[Mount], places: &[(PathBuf, PathBuf, usize)]) -> (bool, Vec<Late>) {
    let found: Vec<(PathBuf, Option<Propagation>)> = list.split(|byte| *byte == b'\n').filter_map(spread).collect();
    let below = |path: &Path| -> Vec<(PathBuf, Option<Propagation>)> {
        let inside = |(at, state): &(PathBuf, Option<Propagation>)| {
            at.strip_prefix(path).ok().map(|below| (below.to_owned(), *state))
        };
        found.iter().filter_map(inside).collect()
    };
    let shared = places.iter().any(|(path, ..)| below(path).iter().any(|(_, state)| state.is_none()));
    let mut late = Vec::new();
    if shared {
        // libcontainer shares the root itself. runc makes it private before anything is mounted in it.
        late.push(Late { path: "/".into(), propagation: Propagation::PRIVATE });
    }
    for (index, mount) in mounts.iter().enumerate() {
        let destination = mount.destination();
        let place = places.iter().find(|(_, _, place)| *place == index);
        if let Some((path, ..)) = place.filter(|_| shared) {
            for (at, state) in below(path) {
                let path = destination.components().chain(at.components()).collect();
                late.extend(state.map(|propagation| Late { path, propagation }));
            }
        }
        let prepared = |propagation: &Propagation| place.is_some() && !propagation.is_unbindable();
        let left = options_of(mount).propagation.into_iter().filter(|propagation| !prepared(propagation));
        late.extend(left.map(|propagation| Late { path: destination.clone(), propagation }));
    }
    (shared, late)
}

/// Parses path and propagation from a line of `mountinfo`; the propagation is `None` if the mount is shared.
fn spread(line: &[u8]) -> Option<(PathBuf, Option<Propagation>)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let path = unescape(fields.nth(4)?);
    let tags: Vec<&[u8]> = fields.skip(1).take_while(|tag| *tag != b"-").collect();
    let has = |name: &[u8]| tags.iter().any(|tag| tag.starts_with(name));
    let private = if has(b"master:") { libc::MS_SLAVE } else { libc::MS_PRIVATE };
    Some((path, (!has(b"shared:")).then_some(Propagation { kind: private, recursive: false })))
}

/// Makes the corrections in the mount namespace of the container's first process, then returns to this process's namespace.
///
/// # Errors
/// One of the two namespaces cannot be entered.
pub(super) fn apply(late: &[Late], init: i32) -> io::Result<()> {
    let own = File::open("/proc/self/ns/mnt")?;
    setns(File::open(format!("/proc/{init}/ns/mnt"))?, CloneFlags::CLONE_NEWNS)?;
    let done = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map(|root| late.iter().for_each(|one| one.apply(root.as_fd())));
    setns(own, CloneFlags::CLONE_NEWNS)?;
    Ok(done?)
}

impl Late {
    fn apply(&self, root: impl AsFd) {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let found = openat2(root, &self.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
        let done = found
            .map_err(io::Error::from)
            .and_then(|mount| self.propagation.change().apply(mount, self.propagation.recursive));
        if let Err(error) = done {
            // Another mount hides this one, so no process can use it.
            tracing::debug!(%error, path = %self.path.display(), "cannot set the propagation of a mount");
        }
    }
}

#[cfg(test)]
mod tests {
    use libcontainer::oci_spec::runtime::Spec;

    use super::*;

    const SLAVE: Propagation = Propagation { kind: libc::MS_SLAVE, recursive: false };

    fn mounts(options: [&str; 3]) -> Vec<Mount> {
        let mount = |destination: &str, kind: &str, option: &str| serde_json::json!({"destination": destination, "type": kind, "source": "/s", "options": [option]});
        let spec = serde_json::json!({"ociVersion": "1.1.0", "mounts": [
            mount("/proc", "proc", options[0]), mount("/a", "bind", options[1]), mount("/b", "bind", options[2])]});
        serde_json::from_value::<Spec>(spec).unwrap().mounts().clone().unwrap()
    }

    fn places() -> Vec<(PathBuf, PathBuf, usize)> {
        vec![("/s/1".into(), "/a".into(), 1), ("/s/2".into(), "/b".into(), 2)]
    }

    fn late(path: &str, propagation: Propagation) -> Late {
        Late { path: path.into(), propagation }
    }

    /// Without a shared mount no correction is needed.
    #[test]
    fn private_mounts_are_done() {
        let list = b"1 0 0:1 / /s/1 rw master:5 - tmpfs t rw\n2 0 0:1 / /s/2 rw - tmpfs t rw\n3 0 0:1 / / rw shared:1 - tmpfs t rw\n";
        let mounts = mounts(["ro", "rslave", "rprivate"]);
        assert_eq!(plan(list, &mounts, &places()), (false, vec![]));
    }

    /// If one mount is shared, the root and all other mounts are corrected, with the mounts below them.
    #[test]
    fn others_are_put_right() {
        let list = b"1 0 0:1 / /s/1 rw shared:5 master:1 - tmpfs t rw\n2 0 0:1 / /s/2 rw - tmpfs t rw\n\
            3 0 0:1 / /s/2/x\\040y rw master:1 - tmpfs t rw\n4 0 0:1 / /s/22 rw - tmpfs t rw\n";
        let (shared, left) = plan(list, &mounts(["ro", "rshared", "ro"]), &places());
        assert!(shared);
        assert_eq!(left, [late("/", Propagation::PRIVATE), late("/b", Propagation::PRIVATE), late("/b/x y", SLAVE)]);
    }

    /// Mounts that libcontainer makes, and mounts that could not have been copied, get their propagation at the end.
    #[test]
    fn options_wait() {
        let list = b"1 0 0:1 / /s/1 rw - tmpfs t rw\n2 0 0:1 / /s/2 rw - tmpfs t rw\n";
        let (shared, left) = plan(list, &mounts(["rshared", "unbindable", "rprivate"]), &places());
        let of = |text: &str| Propagation::parse(text).unwrap();
        assert!(!shared);
        assert_eq!(left, [late("/proc", of("rshared")), late("/a", of("unbindable"))]);
    }
}
