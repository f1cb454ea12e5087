//! Attributes of a container's process that `execve(2)` or runc's init would set, and libcontainer does not: `docs/parity.md` has the
//! list.
//!
//! They are set in three steps. A helper sets for itself the attributes that all its descendants inherit. The process sets most others
//! before its creation is reported, so that a missing feature fails the creation. The label comes last, because a profile is written for a
//! program, not for the steps before it.

use std::io;
use std::sync::Arc;

use libcontainer::oci_spec::runtime::Spec;
use nix::libc;
use prewasi_engines::Guest;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::label::{self, Label, LabelError};
use super::title::Title;
use crate::node::keyring;
use crate::pod::spec;

/// Number of processors in a mask.
const PROCESSORS: usize = 8192;

/// Attributes that a process must still set.
#[derive(Clone)]
pub(crate) struct Attributes {
    /// Whether the process executes another program.
    executed: bool,
    title: Title,
    labels: Arc<[Label]>,
}

/// The reason why a process cannot get the attributes of an executed one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttributeError {
    #[error(transparent)]
    Label(#[from] LabelError),
    #[error("cannot give the container a session keyring of its own")]
    Keyring(#[source] io::Error),
    #[error("cannot set the arguments and environment of the process")]
    Title(#[source] io::Error),
    #[error("cannot protect the process's memory from other processes")]
    Dumpable(#[source] io::Error),
}

impl Attributes {
    /// Prepares this process, a helper, to make a process of a container: a wasm guest, or the native program of the spec. The helper
    /// then has the container's keyring, unless the client wants it to keep its own.
    ///
    /// # Errors
    /// [`AttributeError`]: the node cannot meet a demand of the spec.
    pub(crate) fn prepare(
        container: &str,
        spec: &Spec,
        guest: Option<&Guest>,
        keyring: bool,
    ) -> Result<Self, AttributeError> {
        let executed = guest.is_none();
        let (labels, selinux) = match spec.process() {
            Some(process) => {
                label::check(process)?;
                (label::of(process, executed)?, label::selinux(process))
            }
            None => (Vec::new(), None),
        };
        if keyring {
            keyring::join(container, selinux).map_err(AttributeError::Keyring)?;
        }
        run_anywhere();
        let args = guest.map_or_else(|| spec::args(spec), |guest| &guest.args);
        let env = guest.map_or(&[][..], |guest| &guest.env).iter();
        let title =
            Title::new(args.iter().map(String::as_str), env.map(|(name, value)| (name.as_str(), value.as_str())))
                .map_err(AttributeError::Title)?;
        if let Err(error) = title.show_arguments() {
            // The process itself overwrites the shown arguments later.
            tracing::debug!(%error, "cannot change what is shown as the command line of a process");
        }
        Ok(Self { executed, title, labels: labels.into() })
    }

    /// Sets, in the process, the attributes that need not wait for its start.
    pub(super) fn begin(&self) -> Result<(), AttributeError> {
        // After a change of user the default would be the value of `fs.suid_dumpable`.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| AttributeError::Dumpable(error.into()))?;
        if !self.executed {
            self.title.show();
        }
        Ok(self.labels.iter().try_for_each(Label::reach)?)
    }

    /// Sets the remaining attributes, directly before the program runs.
    pub(super) fn finish(&self) -> Result<(), AttributeError> {
        Ok(self.labels.iter().try_for_each(Label::apply)?)
    }
}

/// Lets this process run on all processors that its cgroup allows: containerd's own affinity does not concern containers.
fn run_anywhere() {
    let mask = [u8::MAX; PROCESSORS / 8];
    // SAFETY: the kernel reads `mask.len()` bytes of the mask.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, mask.len(), mask.as_ptr()) };
    if result < 0 {
        // The process is only slower, as with runc.
        tracing::debug!(error = %io::Error::last_os_error(), "cannot let the process run on all processors");
    }
}
