//! AppArmor profiles and SELinux labels of processes.
//!
//! In both modules a process sets a label by a file in `/proc`: `exec` for the next program's label, `current` for its own. A wasm
//! program is never executed, so its process changes its own label, as the last step before the guest runs; later threads inherit it.
//! libcontainer sets the AppArmor profile of the next program, which is right for native programs, and does nothing for SELinux.
//!
//! The container's own `/proc` may be missing, or made up by an image. So a helper opens the node's before the root changes. Through that
//! the process opens its own file, and then closes the node's `/proc`, before the creation of its container is reported.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use libcontainer::oci_spec::runtime::Process;
use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, fstatfs, openat};
use rustix::io::Errno;

const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";
/// The list of loaded profiles, one per line.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// A label for a process, and the way to set it.
pub(super) struct Label {
    /// The text to write.
    text: String,
    /// The files below `attr` that set it: the first existing one is used.
    files: &'static [&'static str],
    way: Mutex<Way>,
}

/// The progress of a process towards its label.
enum Way {
    /// The node's `/proc` is open.
    Node(OwnedFd),
    /// The process's own file is open.
    Open(File),
    /// The label is set, or cannot be.
    Gone,
}

/// The reason why a process cannot have its label.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabelError {
    #[error("cannot apply AppArmor profile {profile:?}: AppArmor is not enabled on this node")]
    AppArmorOff { profile: String },
    #[error("cannot apply AppArmor profile {profile:?}: it is not loaded on this node")]
    NoProfile { profile: String },
    #[error("cannot apply SELinux label {label:?}: SELinux is not enabled on this node")]
    SelinuxOff { label: String },
    #[error("cannot open /proc of the node")]
    Procfs(#[source] io::Error),
    #[error("cannot open {file} of the process")]
    Open {
        file: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot apply {text:?}")]
    Write {
        text: String,
        #[source]
        source: io::Error,
    },
}

/// Checks that the node supports the labels of a process.
///
/// # Errors
/// [`LabelError`] names the missing support.
pub(super) fn check(process: &Process) -> Result<(), LabelError> {
    if let Some(profile) = apparmor(process) {
        if !fs::read_to_string(APPARMOR).is_ok_and(|enabled| enabled.starts_with('Y')) {
            return Err(LabelError::AppArmorOff { profile: profile.to_owned() });
        }
        // If the list is not readable, the kernel reports a missing profile later, with a less clear error.
        if fs::read_to_string(PROFILES).is_ok_and(|profiles| !is_loaded(&profiles, profile)) {
            return Err(LabelError::NoProfile { profile: profile.to_owned() });
        }
    }
    match selinux(process) {
        Some(label) if !Path::new(SELINUX).exists() => Err(LabelError::SelinuxOff { label: label.to_owned() }),
        _ => Ok(()),
    }
}

/// Returns the labels of a process, in the order in which they are to be applied. `executed` means that another program replaces it.
///
/// # Errors
/// [`LabelError::Procfs`].
pub(super) fn of(process: &Process, executed: bool) -> Result<Vec<Label>, LabelError> {
    let selinux = selinux(process).map(|label| (label.to_owned(), if executed { &["exec"] } else { &["current"] }));
    let apparmor = apparmor(process).filter(|_| !executed);
    let apparmor =
        apparmor.map(|profile| (format!("changeprofile {profile}"), &["apparmor/current", "current"] as &[_]));
    let labels = selinux.map(|(text, files)| (text, files as &[_])).into_iter().chain(apparmor);
    labels.map(|(text, files)| Ok(Label { text, files, way: Mutex::new(Way::Node(procfs()?)) })).collect()
}

/// Returns the SELinux label of a process.
pub(super) fn selinux(process: &Process) -> Option<&str> {
    process.selinux_label().as_deref().filter(|label| !label.is_empty())
}

fn apparmor(process: &Process) -> Option<&str> {
    process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty())
}

/// Returns whether the kernel's list has a profile. Stacked profiles, and those of another namespace, are left to the kernel.
fn is_loaded(profiles: &str, name: &str) -> bool {
    let is_plain = name != "unconfined" && !name.contains("//&") && !name.starts_with(':');
    !is_plain || profiles.lines().filter_map(|line| line.rsplit_once(" (")).any(|(known, _)| known == name)
}

fn procfs() -> Result<OwnedFd, LabelError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let procfs = openat(CWD, "/proc", flags, Mode::empty()).map_err(|error| LabelError::Procfs(error.into()))?;
    let stat = fstatfs(&procfs).map_err(|error| LabelError::Procfs(error.into()))?;
    if stat.f_type != PROC_SUPER_MAGIC {
        return Err(LabelError::Procfs(io::Error::other("it is another file system")));
    }
    Ok(procfs)
}

impl Label {
    /// Opens the file that sets the label, and closes the node's `/proc`. For the main thread of the process.
    pub(super) fn reach(&self) -> Result<(), LabelError> {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        let Way::Node(procfs) = std::mem::replace(&mut *way, Way::Gone) else { return Ok(()) };
        let open = |file: &str| {
            let path = format!("thread-self/attr/{file}");
            openat(&procfs, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        };
        let mut files = self.files.iter();
        let mut result = Err((*self.files.first().unwrap_or(&""), Errno::NOENT));
        while let (Err((_, Errno::NOENT)), Some(file)) = (&result, files.next()) {
            result = open(file).map_err(|error| (*file, error));
        }
        let opened = result.map_err(|(file, error)| LabelError::Open { file, source: error.into() })?;
        *way = Way::Open(opened.into());
        Ok(())
    }

    /// Applies the label. For the thread that has called [`Self::reach`].
    pub(super) fn apply(&self) -> Result<(), LabelError> {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match std::mem::replace(&mut *way, Way::Gone) {
            Way::Open(mut file) => file.write_all(self.text.as_bytes()),
            Way::Node(_) | Way::Gone => Err(io::ErrorKind::NotConnected.into()),
        };
        result.map_err(|source| LabelError::Write { text: self.text.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(labels: &str) -> Process {
        let text = format!(r#"{{"cwd":"/","user":{{"uid":0,"gid":0}}{labels}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn told(labels: &str, executed: bool) -> Vec<(String, &'static [&'static str])> {
        of(&process(labels), executed).unwrap().into_iter().map(|label| (label.text, label.files)).collect()
    }

    /// A process changes its own label, or that of the next program; an empty label is none.
    #[test]
    fn labels_of_processes() {
        let both = r#","apparmorProfile":"p","selinuxLabel":"u:r:t:s0""#;
        let (selinux, apparmor) = ("u:r:t:s0".to_owned(), "changeprofile p".to_owned());
        let current: &[&str] = &["current"];
        assert_eq!(told(both, false), [(selinux.clone(), current), (apparmor, &["apparmor/current", "current"])]);
        assert_eq!(told(both, true), [(selinux, &["exec"] as &[_])]);
        assert_eq!(told(r#","apparmorProfile":"","selinuxLabel":"""#, false), []);
        assert_eq!(told("", false), []);
    }

    /// A profile is found by its whole name, which may contain spaces.
    #[test]
    fn loaded_profiles() {
        let profiles = "docker-default (enforce)\nmy profile (complain)\n";
        for (name, loaded) in [("docker-default", true), ("my profile", true), ("docker", false), ("unconfined", true)]
        {
            assert_eq!(is_loaded(profiles, name), loaded, "{name}");
        }
        assert!(is_loaded(profiles, "a//&b") && is_loaded(profiles, ":ns:a"));
    }

    /// The file that sets a label is opened through the node's `/proc` and belongs to the process itself.
    #[test]
    fn files_are_reached() {
        let label = of(&process(r#","selinuxLabel":"u:r:t:s0""#), true).unwrap().pop().unwrap();
        label.reach().unwrap();
        let Way::Open(file) = &*label.way.lock().unwrap() else { panic!("it is not open") };
        use std::os::fd::AsRawFd as _;
        let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert!(path.ends_with("attr/exec") && path.starts_with("/proc"), "{}", path.display());
    }
}
