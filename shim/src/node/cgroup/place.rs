//! Interprets `cgroupsPath` of a container's spec. The forms mean the same as in runc 1.3.

use std::path::{Component, Path, PathBuf};

/// The place for a cgroup.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A folder, as a path below a hierarchy's root.
    Folder(PathBuf),
    /// A scope that systemd makes in a slice.
    Scope {
        slice: String,
        unit: String,
        /// Its folder, as a path below the hierarchy's root.
        path: PathBuf,
    },
}

/// The reason why a path cannot be the cgroup of a container.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error("cannot use cgroup path {path:?}: it leads to the root of the hierarchy")]
    Root { path: PathBuf },
    #[error("cannot use cgroup path {path:?}: {slice:?} is no name of a slice")]
    Slice { path: PathBuf, slice: String },
    #[error("cannot use cgroup path {path:?}: {unit:?} is no name of a scope")]
    Unit { path: PathBuf, unit: String },
}

/// The slice of a scope whose path names none.
const DEFAULT_SLICE: &str = "system.slice";
/// Longest name of a unit, in bytes.
const UNIT_MAX: usize = 255;

impl Place {
    /// Interprets the path of a spec. `own` is the cgroup of the calling process, from which a relative path starts. With v2 it starts
    /// beside that cgroup, because a cgroup there holds either processes or other cgroups. Without a path the id is the name.
    ///
    /// # Errors
    /// [`PlaceError`] names the path.
    pub(super) fn new(path: Option<&Path>, id: &str, own: &Path, legacy: bool) -> Result<Self, PlaceError> {
        let path = path.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(id));
        let text = path.to_string_lossy();
        if let (false, false, [slice, prefix, name]) =
            (legacy, path.is_absolute(), &*text.split(':').collect::<Vec<_>>())
        {
            return Self::scope(path, slice, prefix, name);
        }
        let above = if legacy { own } else { own.parent().unwrap_or(Path::new("/")) };
        let mut clean = PathBuf::from("/");
        let start = if path.is_absolute() { Path::new("/") } else { above };
        for part in start.components().chain(path.components()) {
            match part {
                Component::Normal(part) => clean.push(part),
                Component::ParentDir => {
                    clean.pop();
                }
                _ => {}
            }
        }
        if clean.parent().is_none() {
            return Err(PlaceError::Root { path: path.to_owned() });
        }
        Ok(Self::Folder(clean))
    }

    fn scope(path: &Path, slice: &str, prefix: &str, name: &str) -> Result<Self, PlaceError> {
        let slice = if slice.is_empty() { DEFAULT_SLICE } else { slice };
        let folders =
            expand(slice).ok_or_else(|| PlaceError::Slice { path: path.to_owned(), slice: slice.to_owned() })?;
        let unit = format!("{prefix}-{name}.scope");
        let is_good = |letter: char| letter.is_ascii_alphanumeric() || ":-_.\\@".contains(letter);
        if name.is_empty() || unit.len() > UNIT_MAX || !unit.chars().all(is_good) {
            return Err(PlaceError::Unit { path: path.to_owned(), unit });
        }
        Ok(Self::Scope { slice: slice.to_owned(), path: folders.join(&unit), unit })
    }

    /// Returns the folder, as a path below the hierarchy's root.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Scope { path, .. } => path,
        }
    }
}

/// Expands `a-b.slice` to `/a.slice/a-b.slice`; `None` if the text is no name of a slice.
fn expand(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.is_empty() && !name.contains('/'))?;
    let mut path = PathBuf::from("/");
    if name == "-" {
        return Some(path);
    }
    if name.split('-').any(str::is_empty) {
        return None;
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    path.extend(ends.map(|end| format!("{}.slice", &name[..end])));
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "/system.slice/containerd.service";

    fn folder(path: &str, legacy: bool) -> Result<PathBuf, PlaceError> {
        Ok(Place::new(Some(Path::new(path)), "id", Path::new(OWN), legacy)?.path().to_owned())
    }

    /// An absolute path begins at the root, a relative one at the shim's own cgroup or beside it; none leaves the hierarchy.
    #[test]
    fn folders() {
        assert_eq!(folder("/k/../a/./b", false).unwrap(), Path::new("/a/b"));
        assert_eq!(folder("/../../a", true).unwrap(), Path::new("/a"));
        assert_eq!(folder("k/a", false).unwrap(), Path::new("/system.slice/k/a"));
        assert_eq!(folder("k/a", true).unwrap(), Path::new("/system.slice/containerd.service/k/a"));
        assert_eq!(folder("", false).unwrap(), Path::new("/system.slice/id"));
        assert_eq!(folder("", true).unwrap(), Path::new("/system.slice/containerd.service/id"));
        let none = Place::new(None, "id", Path::new("/"), false).unwrap();
        assert_eq!(none, Place::Folder("/id".into()));
        for root in ["/", "/..", "../..", "/a/.."] {
            assert!(matches!(folder(root, false), Err(PlaceError::Root { .. })), "{root}");
        }
    }

    /// With cgroup v2, a path of three parts means a scope in the named slice.
    #[test]
    fn scopes() {
        let place = Place::new(Some(Path::new("kubepods-pod1.slice:cri-containerd:a")), "id", Path::new(OWN), false);
        let path = PathBuf::from("/kubepods.slice/kubepods-pod1.slice/cri-containerd-a.scope");
        let (slice, unit) = ("kubepods-pod1.slice".to_owned(), "cri-containerd-a.scope".to_owned());
        assert_eq!(place.unwrap(), Place::Scope { slice, unit, path });
        assert_eq!(folder(":docker:a", false).unwrap(), Path::new("/system.slice/docker-a.scope"));
        assert_eq!(folder("-.slice:docker:a", false).unwrap(), Path::new("/docker-a.scope"));
        assert_eq!(folder("/odd:path:name", false).unwrap(), Path::new("/odd:path:name"));
        assert_eq!(folder("a.slice:x:b", true).unwrap(), Path::new(OWN).join("a.slice:x:b"));
        for slice in ["a--b.slice:x:b", "-a.slice:x:b", "a:x:b", "a/b.slice:x:b"] {
            assert!(matches!(folder(slice, false), Err(PlaceError::Slice { .. })), "{slice}");
        }
        for unit in ["a.slice:x:", "a.slice:x/y:b", "a.slice:x:b c"] {
            assert!(matches!(folder(unit, false), Err(PlaceError::Unit { .. })), "{unit}");
        }
    }
}
