//! What a guest is given to import: WASI preview 1 for modules; WASI preview 2 with HTTP for components, and preview 3 for
//! those that have several tasks at once; nothing else.

use wasmtime::component::{self, Component, ResourceTable};
use wasmtime::{Engine, ExternType, FuncType, Linker, Module, Store};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView, p2, p3};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::folders::preview1::{self, Numbers};
use super::folders::{self, Either, preview3};
use super::form::Form;
use super::limits::Limits;
use super::outgoing::Outgoing;
use super::{names, one_line};
use crate::working::Working;
use crate::{CompileError, Network};

/// What host functions of a module work on.
pub(super) struct ModuleHost {
    pub(super) wasi: WasiP1Ctx,
    pub(super) limits: Limits,
    /// The guest has all of the process's root.
    pub(super) has_root: bool,
    pub(super) numbers: Numbers,
    /// Where paths lead that may start in either of two folders.
    pub(super) working: Option<Working>,
}

impl ModuleHost {
    /// Makes one for a guest that has nothing yet.
    pub(super) fn new(wasi: WasiP1Ctx, limits: Limits, has_root: bool) -> Self {
        Self { wasi, limits, has_root, numbers: Numbers::default(), working: None }
    }
}

/// What host functions of a component work on.
pub(super) struct Host {
    pub(super) wasi: WasiCtx,
    pub(super) table: ResourceTable,
    pub(super) limits: Limits,
    pub(super) http: WasiHttpCtx,
    pub(super) outgoing: Outgoing,
    pub(super) network: Network,
    /// The guest has all of the process's root.
    pub(super) has_root: bool,
    /// Where paths lead that may start in either of two folders.
    pub(super) either: Option<Either>,
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.table, ctx: &mut self.http }
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// Offers WASI preview 1.
pub(super) fn for_modules(engine: &Engine) -> wasmtime::Result<Linker<ModuleHost>> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_async(&mut linker, |host: &mut ModuleHost| &mut host.wasi)?;
    // wasmtime's own refuses codes above 125, which are as good as any on Linux.
    linker.allow_shadowing(true);
    linker.func_wrap("wasi_snapshot_preview1", "proc_exit", |code: i32| -> wasmtime::Result<()> {
        Err(I32Exit(code).into())
    })?;
    linker.allow_shadowing(false);
    preview1::replace(&mut linker)?;
    Ok(linker)
}

/// Offers WASI preview 2 and HTTP, and preview 3 where it can be.
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

/// Refuses a module that wants what it is not given, or wants it with another type.
pub(super) fn check_module(engine: &Engine, module: &Module) -> Result<(), CompileError> {
    let linker = for_modules(engine).map_err(unsupported)?;
    let wasi = WasiCtxBuilder::new().build_p1();
    let mut store = Store::new(engine, ModuleHost::new(wasi, Limits::default(), false));
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

/// Refuses a component that wants what it is not given, or wants it with another type.
pub(super) fn check_component(engine: &Engine, form: Form, component: &Component) -> Result<(), CompileError> {
    let linker = for_components(engine, form).map_err(unsupported)?;
    match linker.instantiate_pre(component) {
        Ok(_) => Ok(()),
        Err(error) => Err(unknown_import(&error)),
    }
}

/// Reads the names from the error, for wasmtime gives them nowhere else: the interface stands in the first message, the
/// item, where it is one of the interface's, in the second.
fn unknown_import(error: &wasmtime::Error) -> CompileError {
    let mut names = error.chain().map(|cause| {
        let cause = cause.to_string();
        cause.split('`').nth(1).map(str::to_string)
    });
    match (names.next().flatten(), names.next().flatten()) {
        (Some(module), name) => CompileError::UnknownImport { module, name: name.unwrap_or_default() },
        (None, _) => unsupported(one_line(error)),
    }
}

pub(super) fn unsupported(reason: impl ToString) -> CompileError {
    CompileError::Unsupported { reason: reason.to_string() }
}
