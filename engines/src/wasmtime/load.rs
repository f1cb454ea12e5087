//! From an artifact's file to a program that is ready to run.
//!
//! The file is mapped, never read. Code and the images of linear memories stay pages of the page cache, which all processes on the node
//! share. Only touched pages are loaded. Loading starts no thread. It makes only memory, mappings, a descriptor and signal handlers, all
//! of which a forked child inherits.

use std::env::consts::ARCH;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

use super::form::Form;
use super::options::Options;
use super::run::{ComponentProgram, Entry, ModuleProgram};
use super::{link, machine, one_line, serve};
use crate::{LoadError, NativeCode, Program, Tuning};

/// Maps native code and binds its imports.
///
/// # Errors
/// [`LoadError::Incompatible`] names the difference between the artifact's header and this engine.
pub(super) fn load(options: &Options, tuning: &Tuning, code: NativeCode) -> Result<Box<dyn Program>, LoadError> {
    code.check_size()?;
    let (target, host) = (options.target(), machine::host_target());
    if target != host {
        return Err(incompatible(format!("it is for {target}, and this machine is {host}")));
    }
    check_architecture(code.file())?;
    // The only way to map a component from an open file; for reading a module's header it makes no difference.
    let path = format!("/proc/self/fd/{}", code.file().as_raw_fd());
    match Engine::detect_precompiled_file(&path).map_err(refused)? {
        Some(Precompiled::Module) => {
            let engine = options.engine(false, Form::Module).map_err(refused)?;
            let file = code.file().try_clone()?;
            // SAFETY: the maker of the `NativeCode` has vouched for the file's bytes, and that they do not change.
            let module = unsafe { Module::deserialize_open_file(&engine, file) }.map_err(refused)?;
            let bound = link::for_modules(&engine).and_then(|linker| linker.instantiate_pre(&module));
            Ok(Box::new(ModuleProgram::new(bound.map_err(refused)?, options.has_fuel())))
        }
        Some(Precompiled::Component) => component(options, tuning, &path).map_err(refused),
        None => Err(incompatible("it is no artifact of wasmtime".to_string())),
    }
}

/// Maps a component; a component that serves is mapped by an engine that reuses the memory of instances.
fn component(options: &Options, tuning: &Tuning, path: &str) -> wasmtime::Result<Box<dyn Program>> {
    let open = |engine: &Engine, form| {
        // SAFETY: the maker of the `NativeCode` has vouched for the file's bytes, and that they do not change. The path leads to the open
        // file itself.
        let component = unsafe { Component::deserialize_file(engine, path) }?;
        let bound = link::for_components(engine, form)?.instantiate_pre(&component)?;
        wasmtime::Result::Ok((component, bound))
    };
    // The header identifies the form of the code, but only wasmtime can read it.
    let plain = options.engine(false, Form::Component).and_then(|engine| open(&engine, Form::Component));
    let several = || options.engine(false, Form::Async).and_then(|engine| open(&engine, Form::Async));
    let (form, (component, mut bound)) = match plain {
        Ok(opened) => (Form::Component, opened),
        Err(error) => (Form::Async, several().map_err(|_| error)?),
    };
    let mut entry = Entry::of(&bound, tuning);
    if matches!(entry, Entry::Service(_))
        && let Some(pool) = serve::pool(&component, tuning)
        && let Ok((_, pooled)) = options.pooled_engine(form, pool).and_then(|engine| open(&engine, form))
    {
        // Without enough address space for a pool, each instance allocates and frees its memory.
        (entry, bound) = (Entry::of(&pooled, tuning), pooled);
    }
    Ok(Box::new(ComponentProgram::new(bound, entry, options.has_fuel())))
}

/// Refuses code for another architecture with a clear message. wasmtime finds all other differences, but compares the label first, and
/// its message about that tells a user little.
fn check_architecture(file: &File) -> Result<(), LoadError> {
    const ARCHITECTURES: [(u16, &str); 2] = [(62, "x86_64"), (183, "aarch64")];
    let mut header = [0; 20];
    if file.read_at(&mut header, 0)? < header.len() || !header.starts_with(b"\x7fELF") {
        return Ok(());
    }
    let number = u16::from_le_bytes([header[18], header[19]]);
    match ARCHITECTURES.iter().find(|(known, _)| *known == number) {
        Some((_, name)) if *name != ARCH => Err(incompatible(format!("it is for {name}, and this machine is {ARCH}"))),
        _ => Ok(()),
    }
}

fn refused(error: wasmtime::Error) -> LoadError {
    incompatible(one_line(&error))
}

fn incompatible(reason: String) -> LoadError {
    LoadError::Incompatible { reason }
}
