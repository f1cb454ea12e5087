//! The imports that a guest gets. Modules get WASI preview 1. Components get WASI preview 2 with HTTP, and preview 3 if they have several
//! concurrent tasks. There are no others.

use wasmtime::component::{self, Component};
use wasmtime::{Engine, ExternType, FuncType, Linker, Module, Store};
use wasmtime_wasi::{I32Exit, WasiCtxBuilder, p1, p2, p3};

use super::failure::{unknown_import, unsupported};
use super::folders::{self, preview1, preview3};
use super::form::Form;
use super::host::{Host, ModuleHost};
use super::limits::Budget;
use super::names;
use crate::CompileError;

/// Makes a linker with WASI preview 1.
pub(super) fn for_modules(engine: &Engine) -> wasmtime::Result<Linker<ModuleHost>> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_async(&mut linker, |host: &mut ModuleHost| &mut host.wasi)?;
    // wasmtime's own function refuses exit codes above 125, which are valid on Linux.
    linker.allow_shadowing(true);
    linker.func_wrap("wasi_snapshot_preview1", "proc_exit", |code: i32| -> wasmtime::Result<()> {
        Err(I32Exit(code).into())
    })?;
    linker.allow_shadowing(false);
    preview1::replace(&mut linker)?;
    Ok(linker)
}

/// Makes a linker with WASI preview 2 and HTTP, and preview 3 if the form supports it.
pub(super) fn for_components(engine: &Engine, form: Form) -> wasmtime::Result<component::Linker<Host>> {
    let mut linker = component::Linker::new(engine);
    p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    if form == Form::Async {
        p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    names::replace(&mut linker, form)?;
    folders::replace(&mut linker)?;
    if form == Form::Async {
        preview3::replace(&mut linker)?;
    }
    Ok(linker)
}

/// Refuses a module with an import that is not provided, or not with this type.
pub(super) fn check_module(engine: &Engine, module: &Module) -> Result<(), CompileError> {
    let linker = for_modules(engine).map_err(unsupported)?;
    let wasi = WasiCtxBuilder::new().build_p1();
    let mut store = Store::new(engine, ModuleHost::new(wasi, Budget::default(), false));
    for import in module.imports() {
        let offered = linker.get_by_import(&mut store, &import).map(|offered| offered.ty(&store));
        let fits = match (offered, import.ty()) {
            (Some(ExternType::Func(offered)), ExternType::Func(wanted)) => FuncType::eq(&offered, &wanted),
            _ => false,
        };
        if !fits {
            return Err(CompileError::UnknownImport {
                module: import.module().to_string(),
                name: import.name().to_string(),
            });
        }
    }
    Ok(())
}

/// Refuses a component with an import that is not provided, or not with this type.
pub(super) fn check_component(engine: &Engine, form: Form, component: &Component) -> Result<(), CompileError> {
    let linker = for_components(engine, form).map_err(unsupported)?;
    match linker.instantiate_pre(component) {
        Ok(_) => Ok(()),
        Err(error) => Err(unknown_import(&error)),
    }
}
