//! Runs a hook of a container as libcontainer's hook, with one thing corrected: the bundle in the state that the hook reads is the
//! container's own. libcontainer builds from another folder, in which the spec has been adapted.
//!
//! This process becomes the hook, so its exit code, its time limit and its output are the hook's.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use rustix::fs::MemfdFlags;
use serde_json::Value;

/// Longest state that is read; it holds the annotations of a container.
const STATE_MAX: u64 = 16 << 20;

/// Says why a hook cannot be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    #[error("cannot run a hook: its name is missing")]
    Usage,
    #[error("cannot read the state of the container for hook {hook:?}")]
    State {
        hook: OsString,
        #[source]
        source: io::Error,
    },
    #[error("cannot run hook {hook:?}")]
    Run {
        hook: OsString,
        #[source]
        source: io::Error,
    },
}

/// Becomes the hook that the arguments name: the bundle, the file, and the hook's own arguments with its name first.
///
/// # Errors
/// [`HookError`]; only then this returns.
pub(crate) fn run(arguments: &[OsString]) -> Result<(), HookError> {
    let [bundle, hook, name, arguments @ ..] = arguments else { return Err(HookError::Usage) };
    let state = state(bundle.to_str().ok_or(HookError::Usage)?);
    let state = state.map_err(|source| HookError::State { hook: hook.clone(), source })?;
    let source = Command::new(hook).arg0(name).args(arguments).stdin(Stdio::from(state)).exec();
    Err(HookError::Run { hook: hook.clone(), source })
}

/// Reads the state from standard input and returns it, with the bundle replaced, as a file.
fn state(bundle: &str) -> io::Result<File> {
    let mut text = Vec::new();
    io::stdin().lock().take(STATE_MAX).read_to_end(&mut text)?;
    let mut state: Value = serde_json::from_slice(&text)?;
    state["bundle"] = Value::from(bundle);
    let mut file = File::from(rustix::fs::memfd_create("state.json", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(&state)?)?;
    file.rewind()?;
    Ok(file)
}
