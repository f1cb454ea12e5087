//! Loads the seccomp filter of an exec process, which libcontainer does only for a container's init process.
//!
//! Without `noNewPrivileges` only a process with CAP_SYS_ADMIN may load a filter. So libcontainer gets no capabilities to set. The
//! process keeps its own until it has loaded the filter, and then drops them, as an init process does.

use libcontainer::oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp, Process, Spec};
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::{capabilities, seccomp};

/// The last steps before a process runs its program.
#[derive(Clone)]
pub(crate) struct Confinement {
    seccomp: Option<LinuxSeccomp>,
    /// The capabilities to keep after the filter is loaded.
    capabilities: Option<LinuxCapabilities>,
}

/// The reason why a process may not run its program.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfineError {
    #[error("cannot apply the seccomp filter of the container")]
    Seccomp(#[from] seccomp::SeccompError),
    #[error("cannot drop capabilities")]
    Capabilities(#[from] libcontainer::syscall::SyscallError),
}

impl Confinement {
    /// Makes the last step of a process that only has to drop capabilities.
    pub(crate) fn lowering(capabilities: LinuxCapabilities) -> Self {
        Self { seccomp: None, capabilities: Some(capabilities) }
    }

    /// Removes the late steps from a process's description, and makes them a confinement. It drops to `lowered` afterwards, if set.
    /// `None` if the filter needs a listener.
    pub(crate) fn of_other_process(
        spec: &Spec,
        process: &mut Process,
        lowered: Option<LinuxCapabilities>,
    ) -> Option<Self> {
        let filter = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
        if filter.as_ref().is_some_and(seccomp::is_notify) {
            return None;
        }
        let late = filter.is_some() && process.no_new_privileges() != Some(true);
        let capabilities = process.capabilities().clone().filter(|_| late);
        if late {
            process.set_capabilities(None);
        }
        Some(Self { seccomp: filter, capabilities: lowered.or(capabilities) })
    }

    /// Does the remaining steps.
    pub(super) fn apply(&self) -> Result<(), ConfineError> {
        if let Some(filter) = &self.seccomp {
            seccomp::initialize_seccomp(filter)?;
        }
        if let Some(capabilities) = &self.capabilities {
            capabilities::drop_privileges(capabilities, &*create_syscall())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(seccomp: &str) -> Spec {
        let linux = format!(r#"{{"ociVersion":"1.1.0","linux":{{{seccomp}}}}}"#);
        serde_json::from_str(&linux).unwrap()
    }

    fn process(more: &str) -> Process {
        let text = format!(
            r#"{{"cwd":"/","user":{{"uid":0,"gid":0}},"args":["x"],"capabilities":{{"bounding":["CAP_KILL"]}}{more}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    const FILTER: &str = r#""seccomp":{"defaultAction":"SCMP_ACT_ALLOW"}"#;

    /// Capabilities are dropped late only if the filter could not be loaded without them.
    #[test]
    fn capabilities_wait_for_the_filter() {
        let mut plain = process("");
        let confinement = Confinement::of_other_process(&spec(FILTER), &mut plain, None).unwrap();
        assert!(confinement.seccomp.is_some() && confinement.capabilities.is_some());
        assert!(plain.capabilities().is_none());

        for (spec, more) in [(spec(FILTER), r#","noNewPrivileges":true"#), (spec(""), "")] {
            let mut process = process(more);
            let confinement = Confinement::of_other_process(&spec, &mut process, None).unwrap();
            assert!(confinement.capabilities.is_none() && process.capabilities().is_some());
        }
    }

    /// A filter with a listener is refused.
    #[test]
    fn listeners_are_refused() {
        let filter = r#""seccomp":{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/l",
            "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#;
        assert!(Confinement::of_other_process(&spec(filter), &mut process(""), None).is_none());
    }
}
