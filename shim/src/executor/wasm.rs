//! Wasm programs: loaded before the container was built, run inside it.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::Write as _;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use prewasi_engines::{Guest, Outcome, Program, RunError};

use super::confine::Confinement;
use super::{CANNOT_RUN, TRAPPED, exit, mend_null_outputs, signals, stop, tell};

/// Stack of the thread that runs the guest; pages that are not touched cost nothing.
const STACK: usize = 8 << 20;

/// Runs a loaded program in the process that has become the container.
#[derive(Clone)]
pub(crate) struct WasmExecutor {
    program: Arc<dyn Program>,
    guest: Guest,
    /// Descriptors that belong to the program.
    kept: Vec<RawFd>,
    /// What is left to do before, for a process other than init.
    confinement: Option<Confinement>,
    /// How long the program may run.
    timeout: Option<Duration>,
}

/// Says that a program was ended because it ran for too long.
#[derive(Debug, thiserror::Error)]
#[error("the guest was ended: it ran for longer than {timeout:?}, the limit set by `timeout`")]
struct TooLong {
    timeout: Duration,
}

impl WasmExecutor {
    /// Takes a program and the descriptors that it needs; all others are closed before it runs.
    pub(crate) fn new(program: Arc<dyn Program>, guest: Guest, kept: Vec<RawFd>, timeout: Option<Duration>) -> Self {
        Self { program, guest, kept, confinement: None, timeout }
    }

    /// Adds what is left to be done for a process other than init.
    pub(crate) fn confined(self, confinement: Option<Confinement>) -> Self {
        Self { confinement, ..self }
    }

    fn run(&self, guest: Guest) -> u8 {
        let program = self.program.clone();
        let thread = thread::Builder::new().name("guest".to_owned()).stack_size(STACK);
        let (sender, outcome) = mpsc::channel();
        // If the receiver does not wait any more, the process is about to end.
        let spawned = thread.spawn(move || drop(sender.send(program.run(&guest))));
        if let Err(error) = spawned {
            let error = RunError::Setup { reason: format!("cannot start a thread: {error}") };
            tell(&error);
            return error.exit_code();
        }
        match self.wait(&outcome) {
            Ok(Ok(Outcome::Exit(code))) => code,
            Ok(Err(error)) => {
                tell(&error);
                error.exit_code()
            }
            Err(Some(error)) => {
                tell(&error);
                TRAPPED
            }
            // The thread panicked, and the panic's message has been written already.
            Err(None) => TRAPPED,
        }
    }

    /// Waits for the end of the guest, but not for longer than it may run.
    fn wait<T>(&self, outcome: &mpsc::Receiver<T>) -> Result<T, Option<TooLong>> {
        let Some(timeout) = self.timeout else { return outcome.recv().map_err(|_| None) };
        outcome.recv_timeout(timeout).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => Some(TooLong { timeout }),
            mpsc::RecvTimeoutError::Disconnected => None,
        })
    }

    /// Closes every descriptor from 3 on that is not the program's, and none of `more`.
    fn close_others(&self, more: &[RawFd]) {
        let mut next: u32 = 3;
        let mut kept: Vec<&RawFd> = self.kept.iter().chain(more).collect();
        kept.sort_unstable();
        for kept in kept.into_iter().filter_map(|fd| u32::try_from(*fd).ok()) {
            if kept > next {
                close_range(next, kept - 1);
            }
            next = next.max(kept + 1);
        }
        close_range(next, u32::MAX);
    }
}

impl Executor for WasmExecutor {
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        stop::prepare(&self.guest, self.program.serves() && self.guest.function.is_none());
        // From here on the container can be stopped, even if it is never started.
        signals::end_on_signals()
            .map_err(|error| ExecutorValidationError::ArgValidationError(format!("cannot handle signals: {error}")))
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The guest gets its environment from the spec; what this process inherited is nobody's business.
        let names: Vec<_> = std::env::vars_os().map(|(name, _)| name).collect();
        for name in names {
            // SAFETY: libcontainer calls this in a process that has one thread.
            unsafe { std::env::remove_var(name) };
        }
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        crate::log::silence();
        mend_null_outputs();
        name_process(&self.guest);
        if let Some(Err(error)) = self.confinement.as_ref().map(Confinement::apply) {
            tell(&error);
            exit(CANNOT_RUN);
        }
        let prepared = stop::begin().unwrap_or_else(|error| {
            tell(&error);
            exit(CANNOT_RUN)
        });
        self.close_others(&prepared.kept);
        let code = self.run(Guest { stop: prepared.stop, ..self.guest.clone() });
        // Nobody is left to be told if this fails.
        let _ = std::io::stdout().flush();
        exit(code)
    }
}

/// Shows the guest's own name in lists of processes.
fn name_process(guest: &Guest) {
    let file = guest.args.first().and_then(|program| Path::new(program).file_name());
    let name = file.and_then(|file| CString::new(file.as_encoded_bytes()).ok());
    if let Some(name) = name {
        // Only a name.
        let _ = rustix::thread::set_name(&name);
    }
}

fn close_range(first: u32, last: u32) {
    // SAFETY: the values that own these descriptors are never used or dropped: the process ends with `_exit`.
    let result = unsafe { nix::libc::syscall(nix::libc::SYS_close_range, first, last, 0) };
    if result != 0 {
        // Kernels before 5.9: what stays open is of no use to a guest, which has no descriptors but those of WASI.
        tracing::debug!(first, last, "cannot close descriptors");
    }
}
