//! From an artifact's file to a program that is ready to run.
//!
//! The file is mapped, never read as a whole: code stays pages of the page cache, which all processes on the node share.
//! Loading starts no thread and installs no signal handler; what it makes is plain memory, mappings and descriptors, all
//! of which a forked child inherits.

use std::os::fd::AsRawFd as _;

use wasmer::{DeserializeError, Module};

use super::options::Options;
use super::run::ModuleProgram;
use super::{VERSION, artifact, one_line};
use crate::{LoadError, NativeCode, Program};

/// Maps native code.
///
/// # Errors
/// [`LoadError::Incompatible`] says in what the artifact differs from what this engine makes.
pub(super) fn load(options: &Options, code: NativeCode) -> Result<Box<dyn Program>, LoadError> {
    let size = code.file().metadata()?.len();
    if size != code.size() {
        return Err(incompatible(format!("its file has {size} bytes instead of {}", code.size())));
    }
    match artifact::label(code.file(), size)? {
        None => return Err(incompatible("it is no artifact of wasmer, or not a whole one".to_owned())),
        Some(label) if label == options.label() => {}
        Some(label) => return Err(incompatible(difference(&label, options))),
    }
    let engine = options.loading_engine();
    let path = format!("/proc/self/fd/{}", code.file().as_raw_fd());
    // SAFETY: whoever made the `NativeCode` has vouched for the file's bytes, and that they do not change; the path leads
    // to the very file that is open.
    let module = unsafe { Module::deserialize_from_file(&engine, path) }.map_err(refused)?;
    Ok(Box::new(ModuleProgram::new(engine, module, options.tunables(), options.stack())))
}

/// Says in what a label is not this engine's own.
fn difference(label: &str, options: &Options) -> String {
    let (version, fingerprint) = label.split_once('-').unwrap_or((label, ""));
    if version != VERSION {
        return format!("it was compiled by wasmer {version}, and this is {VERSION}");
    }
    let own = options.fingerprint();
    let short = |hex: &str| hex.chars().take(12).collect::<String>();
    format!(
        "it was compiled with other options or for another CPU: its fingerprint is {}, and that of this engine {}",
        short(fingerprint),
        short(own.hex())
    )
}

fn refused(error: DeserializeError) -> LoadError {
    match error {
        DeserializeError::Io(error) => LoadError::Io(error),
        error => incompatible(one_line(&error)),
    }
}

fn incompatible(reason: String) -> LoadError {
    LoadError::Incompatible { reason }
}
