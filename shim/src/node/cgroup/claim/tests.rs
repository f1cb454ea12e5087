use std::process::{Command, Stdio};

use super::*;
use crate::node::cgroup::Hierarchy;

/// Returns a folder in the hierarchy of cgroup v2, which a node with v1 has too.
fn folder_of_version_2(name: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().filter_map(Hierarchy::parse).find(|mount| mount.unified)?;
    let folder = Path::new(mount.point).join(format!("prewasi-{name}-{}", std::process::id()));
    fs::create_dir(&folder).ok().map(|()| folder)
}

fn spec(path: &str) -> Spec {
    serde_json::from_str(&format!(r#"{{"ociVersion":"1.1.0","linux":{{"cgroupsPath":"{path}"}}}}"#)).unwrap()
}

/// Runs a command in a cgroup and returns whether it succeeds.
fn succeeds_in(folder: &Path, command: &str) -> bool {
    let script = format!("echo $$ > {}/cgroup.procs && {command}", folder.display());
    Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status().unwrap().success()
}

/// The kernel obeys the filter: processes in the cgroup can use the devices of the list, and no others.
#[test]
fn filters_hold() {
    let Some(folder) = folder_of_version_2("filter") else {
        eprintln!("skipped: no hierarchy of cgroup v2 that can be written to");
        assert!(std::env::var_os("CI").is_none(), "CI has one");
        return;
    };
    let read = |device: &str| succeeds_in(&folder, &format!("head -c 1 {device}"));
    let node = std::env::temp_dir().join(format!("prewasi-node-{}", std::process::id()));
    // A second node of /dev/zero, and one of /dev/kmsg, for which only the list decides.
    let make = |number: [&str; 2]| {
        let made = Command::new("mknod").arg(&node).args(["c", number[0], number[1]]).status().unwrap();
        assert!(made.success());
    };
    make(["1", "11"]);
    assert!(succeeds_in(&folder, &format!("exec 3<{}", node.display())));
    attach_filter(&folder, &DeviceRules::new(&[]).unwrap()).unwrap();
    assert!(read("/dev/zero") && read("/dev/urandom"));
    assert!(!succeeds_in(&folder, &format!("exec 3<{}", node.display())));
    fs::remove_file(&node).unwrap();
    // Making a node is a matter of the capability.
    assert!(succeeds_in(&folder, &format!("mknod {} b 7 0", node.display())));
    assert!(!read(&node.display().to_string()));
    fs::remove_file(&node).unwrap();
    fs::remove_dir(&folder).unwrap();
}

/// A cgroup with processes in it or below it cannot be claimed, and its processes are not harmed. An empty one can, once at a time.
#[test]
fn only_empty_cgroups_are_claimed() {
    let name = format!("/prewasi-claim-{}", std::process::id());
    let claim = |path: &str| Claim::make(&spec(path), "id", |_| Ok(()));
    let first = match claim(&format!("{name}/own")) {
        Err(error) if !nix::unistd::geteuid().is_root() => {
            eprintln!("skipped: only root may make cgroups: {error}");
            return;
        }
        other => other.unwrap(),
    };
    let folder = first.cgroup.folders[0].1.clone();
    assert!(folder.is_dir() && first.cgroup.kept.iter().all(|kept| *kept != folder));
    assert!(matches!(claim(&format!("{name}/own")), Err(ClaimError::Taken { .. })));
    let mut inside = Command::new("sleep").arg("600").spawn().unwrap();
    fs::write(folder.join("cgroup.procs"), inside.id().to_string()).unwrap();
    for path in [format!("{name}/own"), name.clone()] {
        match claim(&path).map(|_| ()) {
            Err(ClaimError::NotEmpty { count: 1, .. }) => {}
            other => panic!("{path}: {other:?}"),
        }
    }
    assert!(inside.try_wait().unwrap().is_none() && folder.is_dir());
    inside.kill().unwrap();
    inside.wait().unwrap();
    let cgroup = first.cgroup.clone();
    drop(first);
    // The claim made the parent folder, which does not belong to the container.
    let again = claim(&format!("{name}/own")).unwrap();
    assert!(again.cgroup.kept.contains(&folder));
    assert!(again.cgroup.remove() && folder.is_dir());
    assert!(cgroup.remove() && !folder.exists());
    fs::remove_dir(folder.parent().unwrap()).unwrap();
}

/// A folder is recorded before it is made. If its maker was then killed, the folder is removed, unless another process uses it.
#[test]
fn folders_of_killed_makers_go() {
    let name = format!("/prewasi-unclaimed-{}", std::process::id());
    let mut told = Vec::new();
    let made = Claim::make(&spec(&name), "id", |progress| {
        told.push(match progress {
            Progress::Making(folder) => (folder.to_owned(), folder.exists()),
            Progress::Made(cgroup) => (cgroup.folders[0].1.clone(), cgroup.folders[0].1.exists()),
        });
        Ok(())
    });
    let claim = match made {
        Err(error) if !nix::unistd::geteuid().is_root() => {
            eprintln!("skipped: only root may make cgroups: {error}");
            return;
        }
        other => other.unwrap(),
    };
    let folder = claim.cgroup.folders[0].1.clone();
    assert_eq!(told, [(folder.clone(), false), (folder.clone(), true)]);
    remove_unclaimed(&folder).unwrap();
    assert!(folder.is_dir(), "it is locked");
    drop(claim);
    let mut inside = Command::new("sleep").arg("600").spawn().unwrap();
    fs::write(folder.join("cgroup.procs"), inside.id().to_string()).unwrap();
    remove_unclaimed(&folder).unwrap();
    assert!(folder.is_dir() && inside.try_wait().unwrap().is_none());
    inside.kill().unwrap();
    inside.wait().unwrap();
    fs::create_dir(folder.join("below")).unwrap();
    remove_unclaimed(&folder).unwrap();
    assert!(folder.is_dir(), "a folder is in it");
    fs::remove_dir(folder.join("below")).unwrap();
    remove_unclaimed(&folder).unwrap();
    assert!(!folder.exists());
    remove_unclaimed(&folder).unwrap();
}

/// The shim's own cgroup is that of the devices controller, or the only one.
#[test]
fn own_cgroups() {
    let text = "5:name=systemd:/a\n4:devices:/k/pod\n0::/u";
    assert_eq!(own_cgroup(text, true), Path::new("/k/pod"));
    assert_eq!(own_cgroup(text, false), Path::new("/u"));
    assert_eq!(own_cgroup("", false), Path::new("/"));
}
