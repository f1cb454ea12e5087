//! Turns an artifact's file into a program that is ready to run.
//!
//! The file is mapped, never read as a whole: code stays pages of the page cache, which all processes on the node
//! share. Loading starts no thread and installs no signal handler. It makes only plain memory, mappings and
//! descriptors, and a forked child inherits all of them.

use std::os::fd::AsRawFd as _;

use wasmer::{DeserializeError, Module};

use super::options::CodeOptions;
use super::run::ModuleProgram;
use super::{NAME, one_line};
use crate::{LoadError, NativeCode, Program, artifact};

/// Maps native code.
///
/// # Errors
/// [`LoadError::Incompatible`] names the difference between the artifact and this engine's own.
pub(super) fn load(options: &CodeOptions, code: NativeCode) -> Result<Box<dyn Program>, LoadError> {
    artifact::check(&code, NAME, &options.label())?;
    let engine = options.loading_engine();
    let path = format!("/proc/self/fd/{}", code.file().as_raw_fd());
    // SAFETY: the maker of the `NativeCode` has vouched for the file's bytes, and that they do not change. The path
    // leads to the very file that is open.
    let module = unsafe { Module::deserialize_from_file(&engine, path) }.map_err(refused)?;
    Ok(Box::new(ModuleProgram::new(engine, module, options.tunables(), options.stack())))
}

fn refused(error: DeserializeError) -> LoadError {
    match error {
        DeserializeError::Io(error) => LoadError::Io(error),
        error => LoadError::Incompatible { reason: one_line(&error) },
    }
}
