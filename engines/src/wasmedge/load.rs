//! Turns an artifact's file into a program that is ready to run.
//!
//! The dynamic loader maps the file: code stays pages of the page cache, which all processes on the node share. Loading
//! starts no thread and installs no signal handler. It makes only plain memory, mappings and descriptors, and a forked
//! child inherits all of them.

use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use super::facts::Facts;
use super::library::{Configuration, Mapped, Module};
use super::options::CodeOptions;
use super::run::Loaded;
use super::{NAME, linked};
use crate::{LoadError, NativeCode, Program, artifact};

/// Maps native code.
///
/// # Errors
/// [`LoadError::Incompatible`] names the difference between the artifact and this engine's own.
pub(super) fn load(options: &CodeOptions, code: NativeCode) -> Result<Box<dyn Program>, LoadError> {
    artifact::check(&code, NAME, &options.label())?;
    linked::check().map_err(incompatible)?;
    let configuration = Configuration::new(options).map_err(incompatible)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", code.file().as_raw_fd()));
    // SAFETY: the maker of the `NativeCode` has vouched for the file's bytes, and that they do not change. The path
    // leads to the very file that is open.
    let module = unsafe { Module::load(&configuration, &path) }.map_err(incompatible)?;
    let mapped = Mapped::find(&path).map_err(incompatible)?;
    let wasm = mapped.wasm().ok_or_else(|| incompatible("it names no wasm".to_owned()))?;
    let facts = Facts::read(wasm).map_err(|error| incompatible(error.to_string()))?;
    Ok(Box::new(Loaded { module, facts, options: options.clone(), _code: code }))
}

fn incompatible(reason: String) -> LoadError {
    LoadError::Incompatible { reason }
}
