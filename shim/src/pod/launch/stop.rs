//! Informs a wasm program that it must stop.
//!
//! WASI has no signals. A program can handle the signals that stop it, in particular SIGTERM. It declares that in its environment,
//! `PREWASI_STOP=stdin`, and gets a standard input without data, which ends when the signal comes. Every program can wait for that, in
//! any language, together with its other events. It then has [`GRACE`], or the seconds in `PREWASI_STOP_GRACE`, to end with its own exit
//! code. After that, or at a second signal, it is ended like all others.
//!
//! A program with a standard input of its own keeps it, and is not informed.
//!
//! All is prepared before the container can be started, so that a signal directly after its start is not lost. A signal before the
//! program runs ends the process soon, unless the container is started meanwhile.
//!
//! A program that serves needs no declaration: its engine handles the stop, accepts no more connections, and finishes the requests in
//! progress. Its workers hold the input as well, so that it would not end; so the engine waits for a byte.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::libc;
use prewasi_engines::Guest;

/// Variable in which a program declares that it handles a stop.
const STOP: &str = "PREWASI_STOP";
/// Variable with the program's grace period, in seconds.
const SECONDS: &str = "PREWASI_STOP_GRACE";
/// Default grace period, in seconds.
const GRACE: u32 = 30;

/// The writing end of the input; -1 if there is none, or it has been closed.
static INPUT: AtomicI32 = AtomicI32::new(-1);
/// Whether the input is for an engine that waits for a byte.
static SERVES: AtomicBool = AtomicBool::new(false);
/// The signal that has informed the program; 0 before.
static TOLD: AtomicI32 = AtomicI32::new(0);
static GRACE_SECONDS: AtomicU32 = AtomicU32::new(GRACE);
/// The program runs, or is about to.
static STARTED: AtomicBool = AtomicBool::new(false);
/// The result of the preparation, until the program takes it.
static PREPARED: Mutex<Option<Result<Prepared, StopError>>> = Mutex::new(None);

/// Grace period in seconds of a process that is stopped before it was started.
const NOT_STARTED: u32 = 1;

/// The descriptors that inform a program of a stop.
#[derive(Default)]
pub(super) struct Prepared {
    /// Descriptors that must stay open.
    pub(super) kept: Vec<RawFd>,
    /// The descriptor on which the engine of a program that serves waits.
    pub(super) stop: Option<Arc<OwnedFd>>,
}

/// The reason why a program cannot be informed of a stop.
#[derive(Debug, thiserror::Error)]
pub(super) enum StopError {
    #[error("cannot use {STOP}={0:?}: the only possible value is \"stdin\"")]
    Way(String),
    #[error("cannot use {SECONDS}={0:?}: it must be a number of seconds above 0")]
    Seconds(String),
    #[error("cannot prepare the standard input")]
    Input(#[source] io::Error),
}

/// Makes the descriptors, for [`begin`].
pub(super) fn prepare(guest: &Guest, serves: bool) {
    *PREPARED.lock().unwrap_or_else(PoisonError::into_inner) = Some(make(guest, serves));
}

/// Makes the program's input if it declares that, or the engine's descriptor if the program serves.
fn make(guest: &Guest, serves: bool) -> Result<Prepared, StopError> {
    let wish = wish(guest)?;
    if !serves && (wish.is_none() || !has_no_input()) {
        return Ok(Prepared::default());
    }
    let (reader, writer) = io::pipe().map_err(StopError::Input)?;
    let seconds = if serves { seconds(guest)? } else { wish };
    GRACE_SECONDS.store(seconds.unwrap_or(GRACE), Ordering::Relaxed);
    let writer = writer.into_raw_fd();
    let mut prepared = Prepared { kept: vec![writer], stop: None };
    if serves {
        let reader = OwnedFd::from(reader);
        prepared.kept.push(reader.as_raw_fd());
        prepared.stop = Some(Arc::new(reader));
    // SAFETY: dup2 has no memory effects; standard input stays a descriptor of this process.
    } else if unsafe { libc::dup2(reader.as_raw_fd(), libc::STDIN_FILENO) } < 0 {
        return Err(StopError::Input(io::Error::last_os_error()));
    }
    SERVES.store(serves, Ordering::Relaxed);
    INPUT.store(writer, Ordering::Release);
    Ok(prepared)
}

/// Begins the program. If a signal has come before, the whole grace period begins now.
///
/// # Errors
/// The program's declaration is not valid.
pub(super) fn begin() -> Result<Prepared, StopError> {
    STARTED.store(true, Ordering::SeqCst);
    if told_by().is_some() {
        // SAFETY: the call only sets a timer.
        unsafe { libc::alarm(GRACE_SECONDS.load(Ordering::Relaxed)) };
    }
    PREPARED.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(|| Ok(Prepared::default()))
}

/// Informs the program that this signal has come. Returns `false` if it does not handle a stop, or has been informed before. For a signal
/// handler.
pub(super) fn tell(signal: libc::c_int) -> bool {
    let input = INPUT.swap(-1, Ordering::AcqRel);
    if input < 0 {
        return false;
    }
    TOLD.store(signal, Ordering::Release);
    let seconds = if STARTED.load(Ordering::SeqCst) { GRACE_SECONDS.load(Ordering::Relaxed) } else { NOT_STARTED };
    // SAFETY: all calls are safe in a signal handler; no other value owns the descriptor.
    unsafe {
        if SERVES.load(Ordering::Relaxed) {
            libc::write(input, [0_u8].as_ptr().cast(), 1);
        }
        libc::close(input);
        libc::alarm(seconds);
    }
    true
}

/// Returns the signal that has informed the program, if one has.
pub(super) fn told_by() -> Option<libc::c_int> {
    Some(TOLD.load(Ordering::Acquire)).filter(|signal| *signal > 0)
}

/// Reads whether a program handles a stop, and its grace period in seconds.
fn wish(guest: &Guest) -> Result<Option<u32>, StopError> {
    match value(guest, STOP) {
        None | Some("") => Ok(None),
        Some("stdin") => seconds(guest).map(|seconds| seconds.or(Some(GRACE))),
        Some(other) => Err(StopError::Way(other.to_owned())),
    }
}

/// Reads a program's grace period in seconds.
fn seconds(guest: &Guest) -> Result<Option<u32>, StopError> {
    let Some(seconds) = value(guest, SECONDS) else { return Ok(None) };
    let number = seconds.parse().ok().filter(|seconds| *seconds > 0);
    number.map(Some).ok_or_else(|| StopError::Seconds(seconds.to_owned()))
}

fn value<'a>(guest: &'a Guest, name: &str) -> Option<&'a str> {
    guest.env.iter().rfind(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// Returns whether standard input is `/dev/null`.
fn has_no_input() -> bool {
    let own = rustix::fs::fstat(rustix::stdio::stdin());
    let null = File::open("/dev/null").and_then(|null| Ok(rustix::fs::fstat(null)?));
    matches!((own, null), (Ok(own), Ok(null)) if own.st_rdev == null.st_rdev && own.st_mode == null.st_mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(env: &[(&str, &str)]) -> Guest {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Guest { env, ..Guest::default() }
    }

    /// A program is informed only if it declares that, with a known value.
    #[test]
    fn wishes() {
        assert_eq!(wish(&guest(&[])).unwrap(), None);
        assert_eq!(wish(&guest(&[(SECONDS, "5")])).unwrap(), None);
        assert_eq!(wish(&guest(&[(STOP, "stdin")])).unwrap(), Some(GRACE));
        assert_eq!(wish(&guest(&[(STOP, "stdin"), (SECONDS, "5")])).unwrap(), Some(5));
        assert!(matches!(wish(&guest(&[(STOP, "signal")])), Err(StopError::Way(_))));
        for seconds in ["0", "-1", "5s", "4294967296"] {
            assert!(matches!(wish(&guest(&[(STOP, "stdin"), (SECONDS, seconds)])), Err(StopError::Seconds(_))));
        }
    }
}
