//! The state of a guest's imported functions.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::limits::Budget;
use super::outgoing::Outgoing;
use crate::Network;
use crate::working::Working;

/// The state of a module's host functions.
pub(super) struct ModuleHost {
    pub(super) wasi: WasiP1Ctx,
    pub(super) limits: Budget,
    /// The guest has its process's whole root.
    pub(super) has_root: bool,
    pub(super) numbers: Numbers,
    /// Resolves paths that may start in either of two folders.
    pub(super) working: Option<Working>,
}

impl ModuleHost {
    /// Makes the state of a guest that has not opened anything yet.
    pub(super) fn new(wasi: WasiP1Ctx, limits: Budget, has_root: bool) -> Self {
        Self { wasi, limits, has_root, numbers: Numbers::default(), working: None }
    }
}

/// The state of a component's host functions.
pub(super) struct Host {
    pub(super) wasi: WasiCtx,
    pub(super) table: ResourceTable,
    pub(super) limits: Budget,
    pub(super) http: WasiHttpCtx,
    pub(super) outgoing: Outgoing,
    pub(super) network: Network,
    /// The guest has its process's whole root.
    pub(super) has_root: bool,
    /// Resolves paths that may start in either of two folders.
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

/// A component's folder that stands for its working directory and for `/`: see [`crate::working`].
pub(super) struct Either {
    pub(super) working: Working,
    /// Identifies the folder: wasmtime opens it once.
    pub(super) folder: Arc<File>,
    /// The entry of `/` in the table.
    pub(super) root: Resource<Descriptor>,
}

/// Maps a guest's descriptor numbers to entries of wasmtime's table.
#[derive(Debug, Default)]
pub(super) struct Numbers(pub(super) BTreeMap<i32, u32>);
