//! A way for a wasm program to hear that it shall stop.
//!
//! WASI knows no signals. A program that wants to hear of those that stop it, SIGTERM above all, says so in its environment,
//! `PREWASI_STOP=stdin`, and gets a standard input that has nothing to read and ends when the signal comes. Every program can wait for that, in any
//! language, together with whatever else it waits for. It has [`GRACE`] then, or as many seconds as `PREWASI_STOP_GRACE` says,
//! to end with an exit code of its own; after that, or with a second signal, it is ended like all others.
//!
//! A program that has a standard input of its own keeps it, and hears nothing.
//!
//! All is prepared before the container can be started, so that a signal right after its start is heard. One that comes before
//! the program runs ends the process soon, unless it is started meanwhile.
//!
//! A program that serves needs to say nothing: its engine hears for it, stops accepting, and finishes what it has begun. It may have
//! forked processes, which hold the input as well, so that it does not end; what the engine waits for therefore is a byte.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::libc;
use prewasi_engines::Guest;

/// The variable by which a program says that it can hear.
const STOP: &str = "PREWASI_STOP";
/// The variable with the seconds that it wants to have.
const SECONDS: &str = "PREWASI_STOP_GRACE";
/// How many seconds a program has that does not say how many it wants.
const GRACE: u32 = 30;

/// The writing end of the input that ends; -1 if there is none, or it has been closed.
static INPUT: AtomicI32 = AtomicI32::new(-1);
/// The input is for an engine that waits for a byte.
static SERVES: AtomicBool = AtomicBool::new(false);
/// The signal that told it to stop; 0 before.
static TOLD: AtomicI32 = AtomicI32::new(0);
static GRACE_SECONDS: AtomicU32 = AtomicU32::new(GRACE);
/// The program runs, or is about to.
static STARTED: AtomicBool = AtomicBool::new(false);
/// What was prepared, until the program takes it.
static PREPARED: Mutex<Option<Result<Prepared, StopError>>> = Mutex::new(None);

/// How many seconds a process has that was told to stop before it was started.
const NOT_STARTED: u32 = 1;

/// What a program needs for hearing that it shall stop.
#[derive(Default)]
pub(super) struct Prepared {
    /// Descriptors that must stay open.
    pub(super) kept: Vec<RawFd>,
    /// What the engine of a program that serves waits for.
    pub(super) stop: Option<Arc<OwnedFd>>,
}

/// Says why a program cannot be told to stop.
#[derive(Debug, thiserror::Error)]
pub(super) enum StopError {
    #[error("cannot use {STOP}={0:?}: the only way to hear of a stop is \"stdin\"")]
    Way(String),
    #[error("cannot use {SECONDS}={0:?}: it is no number of seconds from 1 on")]
    Seconds(String),
    #[error("cannot prepare the standard input")]
    Input(#[source] io::Error),
}

/// Makes what ends when the program is to stop, for [`begin`].
pub(super) fn prepare(guest: &Guest, serves: bool) {
    *PREPARED.lock().unwrap_or_else(PoisonError::into_inner) = Some(make(guest, serves));
}

/// Makes the program's input, if it wants that, or what its engine waits for, if it serves.
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

/// Begins the program: whoever was told to stop before has the whole grace from now on.
///
/// # Errors
/// The program's wish cannot be met.
pub(super) fn begin() -> Result<Prepared, StopError> {
    STARTED.store(true, Ordering::SeqCst);
    if told_by().is_some() {
        // SAFETY: it only sets a timer.
        unsafe { libc::alarm(GRACE_SECONDS.load(Ordering::Relaxed)) };
    }
    PREPARED.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(|| Ok(Prepared::default()))
}

/// Tells the program to stop, because this signal has come; `false` if it cannot hear, or has been told. For a signal handler.
pub(super) fn tell(signal: libc::c_int) -> bool {
    let input = INPUT.swap(-1, Ordering::AcqRel);
    if input < 0 {
        return false;
    }
    TOLD.store(signal, Ordering::Release);
    let seconds = if STARTED.load(Ordering::SeqCst) { GRACE_SECONDS.load(Ordering::Relaxed) } else { NOT_STARTED };
    // SAFETY: all of them may be called in a signal handler; the descriptor belongs to nobody else.
    unsafe {
        if SERVES.load(Ordering::Relaxed) {
            libc::write(input, [0_u8].as_ptr().cast(), 1);
        }
        libc::close(input);
        libc::alarm(seconds);
    }
    true
}

/// Returns the signal that has told the program to stop, if one has.
pub(super) fn told_by() -> Option<libc::c_int> {
    Some(TOLD.load(Ordering::Acquire)).filter(|signal| *signal > 0)
}

/// Reads whether a program wants to hear that it shall stop, and how many seconds it has then.
fn wish(guest: &Guest) -> Result<Option<u32>, StopError> {
    match value(guest, STOP) {
        None | Some("") => Ok(None),
        Some("stdin") => seconds(guest).map(|seconds| seconds.or(Some(GRACE))),
        Some(other) => Err(StopError::Way(other.to_owned())),
    }
}

/// Reads how many seconds a program wants to have.
fn seconds(guest: &Guest) -> Result<Option<u32>, StopError> {
    let Some(seconds) = value(guest, SECONDS) else { return Ok(None) };
    let number = seconds.parse().ok().filter(|seconds| *seconds > 0);
    number.map(Some).ok_or_else(|| StopError::Seconds(seconds.to_owned()))
}

fn value<'a>(guest: &'a Guest, name: &str) -> Option<&'a str> {
    guest.env.iter().rfind(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// Says whether standard input is `/dev/null`.
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

    /// A program hears nothing unless it says that it can, and says how in words that are known.
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
