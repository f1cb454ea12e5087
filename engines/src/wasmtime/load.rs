//! From an artifact's file to a program that is ready to run.
//!
//! The file is mapped, never read: code and the images of linear memories stay pages of the page cache, which all
//! processes on the node share, and only those that are touched are ever loaded. Loading starts no thread; everything it
//! makes is plain memory, mappings, a descriptor and signal handlers, all of which a forked child inherits.

use std::os::fd::AsRawFd as _;

use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

use super::options::Options;
use super::run::{ComponentProgram, ModuleProgram};
use super::{link, one_line};
use crate::{LoadError, NativeCode, Program};

/// Maps native code and binds its imports.
///
/// # Errors
/// [`LoadError::Incompatible`] says in what the artifact's header differs from this engine.
pub(super) fn load(options: &Options, code: NativeCode) -> Result<Box<dyn Program>, LoadError> {
    let size = code.file().metadata()?.len();
    if size != code.size() {
        return Err(incompatible(format!("its file has {size} bytes instead of {}", code.size())));
    }
    // The only way to have a component mapped from an open file, and harmless for reading a module's header.
    let path = format!("/proc/self/fd/{}", code.file().as_raw_fd());
    let engine = options.engine(false).map_err(refused)?;
    match Engine::detect_precompiled_file(&path).map_err(refused)? {
        Some(Precompiled::Module) => {
            let file = code.file().try_clone()?;
            // SAFETY: whoever made the `NativeCode` has vouched for the file's bytes, and that they do not change.
            let module = unsafe { Module::deserialize_open_file(&engine, file) }.map_err(refused)?;
            let bound = link::for_modules(&engine).and_then(|linker| linker.instantiate_pre(&module));
            Ok(Box::new(ModuleProgram::new(bound.map_err(refused)?)))
        }
        Some(Precompiled::Component) => {
            // SAFETY: as above; the path leads to the very file that is open.
            let component = unsafe { Component::deserialize_file(&engine, &path) }.map_err(refused)?;
            let bound = link::for_components(&engine).and_then(|linker| linker.instantiate_pre(&component));
            Ok(Box::new(ComponentProgram::new(bound.map_err(refused)?)))
        }
        None => Err(incompatible("it is no artifact of wasmtime".to_string())),
    }
}

fn refused(error: wasmtime::Error) -> LoadError {
    incompatible(one_line(&error))
}

fn incompatible(reason: String) -> LoadError {
    LoadError::Incompatible { reason }
}
