//! The cgroups of a container: finding them, listing and killing their processes, removing them.
//!
//! libcgroups 0.7, which libcontainer uses, does not write them. With systemd it sends a cpuset in a type that systemd refuses, loses keys
//! of `unified`, and confines no devices. Its figures lack pressure, peaks and huge pages. The shim uses its paths and its hierarchies of
//! v1.
//!
//! [`claim`] makes them, for one container alone: it refuses cgroups that contain a process. All later actions (count, read, kill, remove)
//! use the folders that the claim or `/proc` names. So they are the same for both versions and both drivers, and work after the spec is
//! gone. The shim never removes a folder that existed before the container.

mod bpf;
mod claim;
mod devices;
mod limits;
mod place;
mod properties;
mod shown;
mod systemd;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::node::pid::signal_child;

pub(crate) use claim::{Claim, ClaimError, Progress, change, remove_unclaimed};
pub(crate) use shown::shown;
pub(crate) use systemd::SystemdError;

/// The hierarchy of cgroup v1 without a controller.
const NAMED: &str = "name=systemd";

/// The folders of a container, by controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cgroup {
    /// With cgroup v1 one folder for each hierarchy, controllers joined by commas; with v2 one folder under the empty name.
    folders: Vec<(String, PathBuf)>,
    /// The systemd scope that the folder belongs to.
    #[serde(default)]
    unit: Option<String>,
    /// Folders of the container, and folders below them, that existed before it.
    #[serde(default)]
    kept: Vec<PathBuf>,
}

impl Cgroup {
    /// Finds the cgroups of a process of the container. Those that it shares with the calling process are left out: they do not belong to
    /// the container, and killing their processes would be fatal.
    ///
    /// # Errors
    /// The system's error, in particular if the process has ended.
    fn at_process(self, pid: i32) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        Ok(Self { folders: folders(&cgroups, &own, &mounts), ..self })
    }

    /// Returns the container's systemd scope, if it has one.
    pub(crate) fn unit(&self) -> Option<&str> {
        self.unit.as_deref()
    }

    /// Returns the folder of a v1 controller.
    pub(crate) fn controller(&self, name: &str) -> Option<&Path> {
        let of = |list: &str| list.split(',').any(|controller| controller == name);
        self.folders.iter().find(|(list, _)| of(list)).map(|(_, folder)| folder.as_path())
    }

    /// Moves the calling process, and its future children, into the container's cgroup of systemd's own hierarchy, on a node with cgroup
    /// v1. runc does so, but libcontainer does not: a process in containerd's cgroup there counts as containerd's.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn join_named(&self) -> io::Result<()> {
        let Some((_, folder)) = self.named() else { return Ok(()) };
        fs::create_dir_all(folder)?;
        fs::write(folder.join("cgroup.procs"), "0")
    }

    fn named(&self) -> Option<&(String, PathBuf)> {
        self.folders.iter().find(|(name, _)| name == NAMED)
    }

    /// Returns the only folder on a system with cgroup v2 alone.
    pub(crate) fn unified(&self) -> Option<&Path> {
        match self.folders.as_slice() {
            [(name, folder)] if name.is_empty() => Some(folder),
            _ => None,
        }
    }

    /// Lists the processes in the cgroups and in those below them.
    pub(crate) fn pids(&self) -> Vec<i32> {
        // Each hierarchy should list each process; if one does not, an administrator may have moved it in one hierarchy.
        let mut pids = Vec::new();
        for (_, folder) in &self.folders {
            collect_pids(folder, &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        // The shim never counts itself as a process of the container, even if a spec names its cgroup.
        pids.retain(|pid| *pid != std::process::id().cast_signed());
        pids
    }

    /// Kills all processes and waits until they have ended, at most for `limit`. Returns whether they have.
    pub(crate) fn kill_all(&self, limit: Duration) -> bool {
        let start = Instant::now();
        loop {
            let pids = self.pids();
            if pids.is_empty() && !self.is_populated() {
                return true;
            }
            if !self.kill_at_once() {
                for pid in pids {
                    // A process that has just ended needs no signal.
                    let _ = signal_child(pid, nix::libc::SIGKILL);
                }
            }
            self.thaw();
            if start.elapsed() > limit {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lets the kernel kill all processes in one step. That includes processes that are being forked, and cannot hit a reused pid.
    /// `false` if the kernel cannot do that: cgroup v1, or Linux before 5.14.
    fn kill_at_once(&self) -> bool {
        let file = self.unified().map(|folder| fs::File::options().write(true).open(folder.join("cgroup.kill")));
        file.is_some_and(|file| file.is_ok_and(|mut file| file.write_all(b"1").is_ok()))
    }

    /// Returns whether the kernel counts processes in the cgroup, at any depth.
    fn is_populated(&self) -> bool {
        let events = self.unified().and_then(|folder| fs::read_to_string(folder.join("cgroup.events")).ok());
        events.is_some_and(|events| events.lines().any(|line| line == "populated 1"))
    }

    /// Lets the kernel freeze or thaw all processes, which takes some time.
    ///
    /// # Errors
    /// The system's error, also if the kernel cannot freeze.
    pub(crate) fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        match self.freezer()? {
            Freezer::Legacy(folder) => {
                fs::write(folder.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" })
            }
            Freezer::Unified(folder) => fs::write(folder.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
        }
    }

    /// Returns whether all processes are frozen.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn is_frozen(&self) -> io::Result<bool> {
        match self.freezer()? {
            Freezer::Legacy(folder) => Ok(fs::read_to_string(folder.join("freezer.state"))?.trim() == "FROZEN"),
            Freezer::Unified(folder) => {
                Ok(fs::read_to_string(folder.join("cgroup.events"))?.lines().any(|line| line == "frozen 1"))
            }
        }
    }

    /// Thaws the processes, so that a signal reaches them.
    pub(crate) fn thaw(&self) {
        // A container that is not frozen need not be thawed.
        let _ = self.set_frozen(false);
    }

    fn freezer(&self) -> io::Result<Freezer<'_>> {
        let legacy = self.controller("freezer").map(Freezer::Legacy);
        let freezer = legacy.or_else(|| self.unified().map(Freezer::Unified));
        freezer
            .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the container has no cgroup that can be frozen"))
    }

    /// Lets systemd remove the container's scope, if it has one. Must be called before the folder is removed.
    ///
    /// # Errors
    /// [`SystemdError`].
    pub(crate) fn stop_unit(&self) -> Result<(), SystemdError> {
        self.unit.as_deref().map_or(Ok(()), |unit| systemd::Systemd::connect()?.stop(unit))
    }

    /// Removes the remaining folders, children first, except those that existed before the container. Returns whether all are gone.
    pub(crate) fn remove(&self) -> bool {
        self.folders.iter().filter(|(_, folder)| !self.remove_folder(folder)).count() == 0
    }

    fn remove_folder(&self, folder: &Path) -> bool {
        for child in child_folders(folder) {
            self.remove_folder(&child);
        }
        if self.kept.iter().any(|kept| kept == folder) {
            return true;
        }
        match fs::remove_dir(folder) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// The folder whose files freeze processes.
enum Freezer<'a> {
    Legacy(&'a Path),
    Unified(&'a Path),
}

fn collect_pids(folder: &Path, pids: &mut Vec<i32>) {
    if let Ok(text) = fs::read_to_string(folder.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    }
    for child in child_folders(folder) {
        collect_pids(&child, pids);
    }
}

fn child_folders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.flatten().filter(is_folder).map(|entry| entry.path()).collect()
}

/// Joins `/proc/PID/cgroup` (`id:controllers:path`) with the mount points of the hierarchies, except the cgroups in `own`.
fn folders(cgroups: &str, own: &str, mounts: &str) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        if path == "/" || own.lines().any(|own| own == line) {
            continue;
        }
        let mount = mounts.lines().filter_map(Hierarchy::parse).find(|mount| mount.is_of(controllers));
        if let Some(folder) = mount.and_then(|mount| mount.folder(path)) {
            found.push((controllers.to_owned(), folder));
        }
    }
    found
}

/// Joins an absolute path with the mount points of the hierarchies that limit processes: all of v1, or the only one of v2.
fn folders_at(path: &Path, mounts: &str) -> Vec<(String, PathBuf)> {
    let below: PathBuf = path.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
    if below.as_os_str().is_empty() {
        return Vec::new();
    }
    let legacy = is_legacy(mounts);
    let hierarchies = mounts.lines().filter_map(Hierarchy::parse).filter(|mount| mount.unified != legacy);
    hierarchies.map(|mount| (mount.controllers(), Path::new(mount.point).join(&below))).collect()
}

/// Returns whether cgroup v1 limits processes on this node.
fn is_legacy(mounts: &str) -> bool {
    mounts.lines().filter_map(Hierarchy::parse).any(|mount| !mount.unified)
}

/// A mount of a cgroup hierarchy.
struct Hierarchy<'a> {
    root: &'a str,
    point: &'a str,
    unified: bool,
    options: &'a str,
}

impl<'a> Hierarchy<'a> {
    /// Parses a line of `mountinfo`: `id parent dev ROOT POINT options [tags] - TYPE source SUPER`.
    fn parse(line: &'a str) -> Option<Self> {
        let (first, second) = line.split_once(" - ")?;
        let mut first = first.split(' ').skip(3);
        let (root, point) = (first.next()?, first.next()?);
        let mut second = second.split(' ');
        let unified = match second.next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        Some(Self { root, point, unified, options: second.nth(1)? })
    }

    fn is_of(&self, controllers: &str) -> bool {
        if controllers.is_empty() {
            return self.unified;
        }
        let mut wanted = controllers.split(',');
        !self.unified && wanted.all(|controller| self.options.split(',').any(|option| option == controller))
    }

    /// Returns the controllers in the notation of `/proc/PID/cgroup`.
    fn controllers(&self) -> String {
        let flags = ["rw", "ro", "nosuid", "nodev", "noexec", "relatime", "xattr", "clone_children", "noprefix"];
        let own = |option: &&str| !self.unified && !flags.contains(option) && !option.starts_with("release_agent");
        self.options.split(',').filter(own).collect::<Vec<_>>().join(",")
    }

    fn folder(&self, path: &str) -> Option<PathBuf> {
        let below = Path::new(path).strip_prefix(self.root).ok()?;
        Some(Path::new(self.point).join(below))
    }
}

#[cfg(test)]
impl Cgroup {
    /// Makes the cgroups of a system with cgroup v2 alone.
    pub(crate) fn only_unified(folder: &Path) -> Self {
        Self { folders: vec![(String::new(), folder.to_owned())], ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 /docker/x /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd";

    /// Each hierarchy's mount point is found by its controllers, and the mount's own root is cut off.
    #[test]
    fn hierarchies_are_found() {
        let cgroups = "5:name=systemd:/k/a\n4:cpu,cpuacct:/k/a\n3:memory:/docker/x/k/a\n0::/";
        let cgroup = Cgroup { folders: folders(cgroups, "4:cpu,cpuacct:/", HYBRID), ..Cgroup::default() };
        assert_eq!(cgroup.controller("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/k/a")));
        assert_eq!(cgroup.controller("memory"), Some(Path::new("/sys/fs/cgroup/memory/k/a")));
        assert_eq!(cgroup.controller("name=systemd"), Some(Path::new("/sys/fs/cgroup/systemd/k/a")));
        assert_eq!(cgroup.controller("pids"), None);
        assert_eq!(cgroup.unified(), None);
    }

    /// A cgroup that the container shares with the shim, such as containerd's own, never counts as the container's.
    #[test]
    fn shared_cgroups_are_left_out() {
        let cgroups = "5:name=systemd:/system.slice/containerd.service\n3:memory:/docker/x/k/a";
        let own = "5:name=systemd:/system.slice/containerd.service\n3:memory:/system.slice/containerd.service";
        let cgroup = Cgroup { folders: folders(cgroups, own, HYBRID), ..Cgroup::default() };
        assert_eq!(cgroup.controller("name=systemd"), None);
        assert_eq!(cgroup.controller("memory"), Some(Path::new("/sys/fs/cgroup/memory/k/a")));
        assert!(Cgroup::default().at_process(std::process::id().cast_signed()).unwrap().folders.is_empty());
    }

    /// The path of a spec leads to a folder in each hierarchy, and never to the root of one.
    #[test]
    fn paths_of_specs() {
        let cgroup = Cgroup { folders: folders_at(Path::new("/k/../a"), HYBRID), ..Cgroup::default() };
        assert_eq!(cgroup.controller("cpu"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/k/a")));
        assert_eq!(cgroup.controller("name=systemd"), Some(Path::new("/sys/fs/cgroup/systemd/k/a")));
        assert_eq!(cgroup.folders.len(), 3);
        for root in ["", "/", "/.."] {
            assert!(folders_at(Path::new(root), HYBRID).is_empty(), "{root:?}");
        }
        let mounts = "31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
        let only = folders_at(Path::new("/k/a"), mounts);
        assert_eq!(only, [(String::new(), PathBuf::from("/sys/fs/cgroup/k/a"))]);
    }

    /// A cgroup v2 is frozen by one file, and its state is in another.
    #[test]
    fn freezing_version_2() {
        let folder = std::env::temp_dir().join(format!("prewasi-freezer-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let cgroup = Cgroup::only_unified(&folder);
        for (text, frozen) in [("populated 1\nfrozen 0\n", false), ("populated 1\nfrozen 1\n", true)] {
            fs::write(folder.join("cgroup.events"), text).unwrap();
            assert_eq!(cgroup.is_frozen().unwrap(), frozen);
            cgroup.set_frozen(frozen).unwrap();
            assert_eq!(fs::read_to_string(folder.join("cgroup.freeze")).unwrap(), if frozen { "1" } else { "0" });
        }
        fs::remove_dir_all(folder).unwrap();
        assert_eq!(Cgroup::default().set_frozen(true).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    /// If the kernel can kill a cgroup, it does, including all cgroups below.
    #[test]
    fn version_2_is_killed_at_once() {
        let folder = std::env::temp_dir().join(format!("prewasi-kill-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let cgroup = Cgroup::only_unified(&folder);
        assert!(!cgroup.kill_at_once() && cgroup.kill_all(Duration::ZERO));
        fs::write(folder.join("cgroup.kill"), "").unwrap();
        fs::write(folder.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        assert!(!cgroup.kill_all(Duration::ZERO));
        assert_eq!(fs::read_to_string(folder.join("cgroup.kill")).unwrap(), "1");
        fs::write(folder.join("cgroup.events"), "populated 0\nfrozen 0\n").unwrap();
        assert!(cgroup.kill_all(Duration::ZERO));
        fs::remove_dir_all(folder).unwrap();
    }

    /// Folders below the container's are removed with it; folders that existed before stay.
    #[test]
    fn what_was_there_stays() {
        let folder = std::env::temp_dir().join(format!("prewasi-kept-{}", std::process::id()));
        let (kept, own) = (folder.join("old"), folder.join("old/new/deep"));
        fs::create_dir_all(&own).unwrap();
        let cgroup = Cgroup { kept: vec![kept.clone()], ..Cgroup::only_unified(&kept) };
        assert!(cgroup.remove() && kept.exists() && !kept.join("new").exists());
        assert!(Cgroup::only_unified(&kept).remove() && !kept.exists());
        fs::remove_dir_all(folder).unwrap();
    }

    /// A system with cgroup v2 alone has one folder.
    #[test]
    fn unified() {
        let mounts = "31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        let cgroup = Cgroup { folders: folders("0::/kubepods/a\n", "0::/", mounts), ..Cgroup::default() };
        assert_eq!(cgroup.unified(), Some(Path::new("/sys/fs/cgroup/kubepods/a")));
    }
}
