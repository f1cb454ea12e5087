//! What the functions that a guest imports work on.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::limits::Limits;
use super::outgoing::Outgoing;
use crate::Network;
use crate::working::Working;

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

/// The folder of a component that stands for its working directory and for `/`: see [`crate::working`].
pub(super) struct Either {
    pub(super) working: Working,
    /// How the folder is known: wasmtime opens it once.
    pub(super) folder: Arc<File>,
    /// `/` in the table.
    pub(super) root: Resource<Descriptor>,
}

/// Which entries of wasmtime's table a guest's numbers stand for.
#[derive(Debug, Default)]
pub(super) struct Numbers(pub(super) BTreeMap<i32, u32>);
