//! The folders that a container sees in `/sys/fs/cgroup` with cgroup v1.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Hierarchy;

/// Controllers in whose hierarchies a container has a cgroup: libcontainer joins all but the last one, [`super::Cgroup::join_named`] the
/// last. In other hierarchies a container is in the shim's cgroup.
const JOINED: [&str; 13] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "hugetlb",
    "pids",
    "perf_event",
    "memory",
    "blkio",
    "net_prio",
    "net_cls",
    "freezer",
    super::NAMED,
];

/// Lists the hierarchies of cgroup v1: the name of the mount point, and the folder of a container whose cgroup is at `path`. Missing
/// folders are made.
///
/// # Errors
/// The system's error.
pub(crate) fn shown(path: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    for hierarchy in mounts.lines().filter_map(Hierarchy::parse).filter(|hierarchy| !hierarchy.unified) {
        let controllers = hierarchy.controllers();
        if seen.contains(&controllers) {
            continue;
        }
        if let Some((name, folder)) = hierarchy.place(&controllers, path, &own) {
            fs::create_dir_all(&folder)?;
            found.push((name, folder));
        }
        seen.push(controllers);
    }
    Ok(found)
}

impl Hierarchy<'_> {
    /// Returns the mount point's name, and the folder of the container, or of the shim if the container has none there.
    fn place(&self, controllers: &str, path: &Path, own: &str) -> Option<(String, PathBuf)> {
        let point = Path::new(self.point);
        let is_joined = controllers.split(',').any(|controller| JOINED.contains(&controller));
        let folder = if is_joined {
            point.join(path.strip_prefix("/").unwrap_or(path))
        } else {
            let line = own.lines().find(|line| line.split(':').nth(1) == Some(controllers))?;
            self.folder(line.splitn(3, ':').nth(2)?)?
        };
        Some((point.file_name()?.to_string_lossy().into_owned(), folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container sees its own folder, or the shim's in hierarchies that it does not join.
    #[test]
    fn places() {
        let place = |line: &str, own: &str| {
            let hierarchy = Hierarchy::parse(line).unwrap();
            hierarchy.place(&hierarchy.controllers(), Path::new("/k/a"), own)
        };
        let both = "32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct";
        let found = place(both, "").unwrap();
        assert_eq!(found, ("cpu,cpuacct".to_owned(), PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/k/a")));
        let named = "34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd";
        let found = place(named, "4:pids:/x\n1:name=systemd:/system.slice").unwrap();
        assert_eq!(found, ("systemd".to_owned(), PathBuf::from("/sys/fs/cgroup/systemd/k/a")));
        let other = "34 30 0:30 / /sys/fs/cgroup/misc rw - cgroup cgroup rw,misc";
        let found = place(other, "4:pids:/x\n1:misc:/system.slice").unwrap();
        assert_eq!(found, ("misc".to_owned(), PathBuf::from("/sys/fs/cgroup/misc/system.slice")));
        assert_eq!(place(other, "4:pids:/x"), None);
    }
}
