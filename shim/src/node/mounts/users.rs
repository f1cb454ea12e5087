//! User namespaces without processes, which only hold the id mapping of a mount.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};

use libcontainer::oci_spec::runtime::LinuxIdMapping;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, fork};

/// An id mapping in the notation of `/proc/PID/uid_map`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdMap(String);

impl IdMap {
    /// Takes the mappings of a spec.
    pub(crate) fn of_spec(mappings: &[LinuxIdMapping]) -> Self {
        let line = |map: &LinuxIdMapping| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size());
        Self(mappings.iter().map(line).collect())
    }

    /// Returns the id of the namespace's root user outside of it.
    pub(crate) fn root(&self) -> Option<u32> {
        let root = |line: &str| line.strip_prefix("0 ")?.split(' ').next()?.parse().ok();
        self.0.lines().find_map(root)
    }

    /// Parses the mappings in an option of a mount: `container:host:size`, separated by commas.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let line = |map: &str| {
            let numbers: Vec<u32> = map.split(':').map(|number| number.parse().ok()).collect::<Option<_>>()?;
            let [container, host, size] = *numbers else { return None };
            Some(format!("{container} {host} {size}\n"))
        };
        text.split(',').map(line).collect::<Option<_>>().map(Self)
    }
}

/// Makes a user namespace with these mappings. Forks, so the calling process must have one thread.
///
/// # Errors
/// The system's error, in particular about the mappings.
pub(crate) fn namespace(users: &IdMap, groups: &IdMap) -> io::Result<File> {
    let (mut ready, child_ready) = io::pipe()?;
    // SAFETY: the child makes only system calls, and never returns.
    let child = match unsafe { fork() }? {
        ForkResult::Parent { child } => Holder(child),
        ForkResult::Child => hold(child_ready),
    };
    drop(child_ready);
    let mut answer = [0];
    ready.read_exact(&mut answer).map_err(|_| io::Error::other("the kernel makes no user namespace"))?;
    let folder = format!("/proc/{}", child.0);
    fs::write(format!("{folder}/uid_map"), &users.0)?;
    fs::write(format!("{folder}/gid_map"), &groups.0)?;
    File::open(format!("{folder}/ns/user"))
}

/// Makes the namespace, reports it, and waits for its end.
fn hold(mut ready: io::PipeWriter) -> ! {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    if unshare(CloneFlags::CLONE_NEWUSER).is_ok() && ready.write_all(&[1]).is_ok() {
        nix::unistd::pause();
    }
    // SAFETY: _exit runs no destructors: the values here belong to the parent.
    unsafe { nix::libc::_exit(1) }
}

/// The child process that holds the namespace.
struct Holder(Pid);

impl Drop for Holder {
    fn drop(&mut self) {
        // It is this process's child, and has not been reaped.
        let _ = nix::sys::signal::kill(self.0, Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mappings of mount options are three numbers each; any other text is refused.
    #[test]
    fn mappings() {
        let two = IdMap::parse("0:100000:10,10:5:1");
        assert_eq!(two, Some(IdMap("0 100000 10\n10 5 1\n".to_owned())));
        let roots = ["0:1000:1", "5:1:1,0:7:2", "10:1:1"].map(|text| IdMap::parse(text).unwrap().root());
        assert_eq!(roots, [Some(1000), Some(7), None]);
        for odd in ["", "0:1", "0:1:2:3", "0:-1:2", "a:1:2", "0:1:2,"] {
            assert_eq!(IdMap::parse(odd), None, "{odd}");
        }
    }
}
