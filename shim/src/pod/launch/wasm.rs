//! Wasm programs: loaded before the container was built, run inside it.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::Write as _;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use prewasi_engines::{CANNOT_RUN, Guest, Program, RunError, TRAPPED, guest_thread};

use super::attributes::Attributes;
use super::confine::Confinement;
use super::{exit, guard, mend_null_outputs, signals, stop, tell};

/// A loaded program, and the settings of its run.
#[derive(Clone)]
pub(crate) struct Wasm {
    pub(crate) program: Arc<dyn Program>,
    pub(crate) guest: Guest,
    /// Descriptors of the program; all others are closed before it runs.
    pub(crate) kept: Vec<RawFd>,
    /// Time limit of the program.
    pub(crate) timeout: Option<Duration>,
    /// The signal that stops the container, if it is known.
    pub(crate) stop_signal: Option<i32>,
}

/// Runs a loaded program in the process that has become the container.
#[derive(Clone)]
pub(crate) struct WasmExecutor {
    wasm: Wasm,
    /// The remaining confinement of an exec process.
    confinement: Option<Confinement>,
    attributes: Attributes,
}

/// The error of a program that exceeded its time limit.
#[derive(Debug, thiserror::Error)]
#[error("the guest was ended: it ran for longer than {timeout:?}, the limit set by `timeout`")]
struct TooLong {
    timeout: Duration,
}

impl WasmExecutor {
    /// Makes an executor for the init process, or with the remaining confinement for an exec process.
    pub(crate) fn new(wasm: Wasm, confinement: Option<Confinement>, attributes: Attributes) -> Self {
        Self { wasm, confinement, attributes }
    }

    /// Returns whether the program serves requests instead of running to its end.
    fn serves(&self) -> bool {
        self.wasm.program.serves() && self.wasm.guest.function.is_none()
    }

    fn run(&self, guest: Guest) -> u8 {
        let program = self.wasm.program.clone();
        // Workers of a server are forked from this thread, and inherit its name.
        let name = name(&guest).and_then(|name| name.into_string().ok()).unwrap_or_else(|| "guest".to_owned());
        let thread = guest_thread(&name);
        let (sender, outcome) = mpsc::channel();
        // If the receiver is gone, the process is about to end.
        let spawned = thread.spawn(move || drop(sender.send(guard::run(&*program, &guest))));
        if let Err(error) = spawned {
            let error = RunError::Setup { reason: format!("cannot start a thread: {error}") };
            tell(&error);
            return error.exit_code();
        }
        match self.wait(&outcome) {
            Ok(Ok(code)) => code,
            Ok(Err(error)) => {
                tell(&error);
                error.exit_code()
            }
            Err(Some(error)) => {
                tell(&error);
                TRAPPED
            }
            // The thread panicked, and has printed the panic's message.
            Err(None) => TRAPPED,
        }
    }

    /// Waits for the end of the guest, at most for its time limit.
    fn wait<T>(&self, outcome: &mpsc::Receiver<T>) -> Result<T, Option<TooLong>> {
        let Some(timeout) = self.wasm.timeout else { return outcome.recv().map_err(|_| None) };
        outcome.recv_timeout(timeout).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => Some(TooLong { timeout }),
            mpsc::RecvTimeoutError::Disconnected => None,
        })
    }

    /// Closes every descriptor from 3 on, except the program's and those in `more`.
    fn close_others(&self, more: &[RawFd]) {
        let mut next: u32 = 3;
        let mut kept: Vec<&RawFd> = self.wasm.kept.iter().chain(more).collect();
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
        stop::prepare(&self.wasm.guest, self.serves());
        let refused = ExecutorValidationError::ArgValidationError;
        self.attributes.begin().map_err(|error| refused(prewasi_precompiler::chain(&error)))?;
        // From here on the container can be stopped, even if it is never started.
        signals::end_on_signals(self.wasm.stop_signal)
            .map_err(|error| refused(format!("cannot handle signals: {error}")))
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The guest gets its environment from the spec; the inherited one must not be visible.
        let names: Vec<_> = std::env::vars_os().map(|(name, _)| name).collect();
        for name in names {
            // SAFETY: libcontainer calls this in a process that has one thread.
            unsafe { std::env::remove_var(name) };
        }
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        crate::telemetry::log::silence();
        crate::telemetry::reasons::close();
        mend_null_outputs();
        if let Some(name) = name(&self.wasm.guest) {
            // A failure is harmless: it is only a name.
            let _ = rustix::thread::set_name(&name);
        }
        if let Some(Err(error)) = self.confinement.as_ref().map(Confinement::apply) {
            tell(&error);
            exit(CANNOT_RUN);
        }
        let prepared = stop::begin().unwrap_or_else(|error| {
            tell(&error);
            exit(CANNOT_RUN)
        });
        if let Err(error) = self.attributes.finish() {
            tell(&error);
            exit(CANNOT_RUN);
        }
        self.close_others(&prepared.kept);
        if let Err(error) = guard::enter(&self.wasm.guest, self.serves()) {
            tell(&error);
            exit(CANNOT_RUN);
        }
        let code = self.run(Guest { stop: prepared.stop, ..self.wasm.guest.clone() });
        // If this fails, there is no way to report it.
        let _ = std::io::stdout().flush();
        exit(code)
    }
}

/// Returns the name that the kernel would give to a process that executes the program.
fn name(guest: &Guest) -> Option<CString> {
    let file = Path::new(guest.args.first()?).file_name()?;
    CString::new(file.as_encoded_bytes()).ok()
}

fn close_range(first: u32, last: u32) {
    // SAFETY: the values that own these descriptors are never used or dropped: the process ends with `_exit`.
    let result = unsafe { nix::libc::syscall(nix::libc::SYS_close_range, first, last, 0) };
    if result != 0 {
        // Kernels before 5.9: a guest cannot reach the open descriptors, because it only has those of WASI.
        tracing::debug!(first, last, "cannot close descriptors");
    }
}
