//! Runs a loaded program to its end, on the calling thread.
//!
//! The asynchronous runtime that WASI needs is made here, in the container, without a thread of its own. Files are read and written on
//! the guest's thread, which waits for them anyway. Only reading stdin uses a thread, which does not keep the process from ending.

use wasmtime::component::types::ComponentItem;
use wasmtime::{Store, Val, component};
use wasmtime_wasi::{WasiCtxBuilder, p2, p3};

use super::failure::{no_such_function, outcome};
use super::guest::{fuel, open_folders, store, wasi};
use super::host::{Host, ModuleHost, Numbers};
use super::limits::Budget;
use super::outgoing::Outgoing;
use super::serve::Service;
use super::{one_line, traps};
use crate::end::setup;
use crate::exports::{self, Export};
use crate::{Guest, Program, RunError, Tuning, WasmKind, entry_point, paths, preopens};

/// A module with bound imports.
pub(super) struct ModuleProgram {
    bound: wasmtime::InstancePre<ModuleHost>,
    /// Its code counts fuel.
    counts: bool,
}

impl ModuleProgram {
    pub(super) fn new(bound: wasmtime::InstancePre<ModuleHost>, counts: bool) -> Self {
        Self { bound, counts }
    }

    fn export(&self, name: &str) -> Option<Export> {
        Some(match self.bound.module().get_export(name)? {
            wasmtime::ExternType::Func(function) => Export::Function { parameters: function.params().len() },
            _ => Export::Other,
        })
    }

    async fn call(&self, guest: &Guest, mut wasi: WasiCtxBuilder, folders: usize) -> wasmtime::Result<u8> {
        let has_root = paths::has_root(&guest.preopens);
        let mut host = ModuleHost::new(wasi.build_p1(), Budget::new(guest.memory_limit), has_root);
        Numbers::note_folders(&mut host, folders)?;
        host.working = preopens::working(guest);
        let mut store = Store::new(self.bound.module().engine(), host);
        store.limiter(|host| &mut host.limits);
        fuel(&mut store, guest, self.counts)?;
        let instance = self.bound.instantiate_async(&mut store).await?;
        if let Some(initialize) = exports::initializer(guest)
            && let Some(initialize) = instance.get_func(&mut store, initialize)
        {
            initialize.call_async(&mut store, &[], &mut []).await?;
        }
        let name = exports::entry(guest, |name| self.export(name));
        let Some(function) = instance.get_func(&mut store, name) else {
            wasmtime::bail!("export {name:?} is gone");
        };
        let mut results = vec![Val::I32(0); function.ty(&store).results().len()];
        function.call_async(&mut store, &[], &mut results).await?;
        Ok(0)
    }
}

impl Program for ModuleProgram {
    fn check(&self, guest: &Guest) -> Result<(), RunError> {
        exports::check(guest, |name| self.export(name))
    }

    fn run(&self, guest: &Guest) -> Result<u8, RunError> {
        self.check(guest)?;
        run(guest, |wasi, folders| self.call(guest, wasi, folders))
    }
}

/// The entry of a component when the caller names no function.
pub(super) enum Entry {
    /// `wasi:cli/run` of preview 2.
    Command(p2::bindings::CommandPre<Host>),
    /// `wasi:cli/run` of preview 3.
    AsyncCommand(p3::bindings::CommandPre<Host>),
    /// A handler of HTTP requests.
    Service(Service),
    /// The component has no entry; the reason is for people.
    None(String),
}

impl Entry {
    /// Finds the entry of a component.
    pub(super) fn of(bound: &component::InstancePre<Host>, tuning: &Tuning) -> Self {
        match p2::bindings::CommandPre::new(bound.clone()) {
            Ok(command) => Self::Command(command),
            Err(error) => match (p3::bindings::CommandPre::new(bound.clone()), Service::of(bound, tuning)) {
                (Ok(command), _) => Self::AsyncCommand(command),
                (_, Some(service)) => Self::Service(service),
                _ => Self::None(one_line(&error)),
            },
        }
    }
}

/// A component with bound imports.
pub(super) struct ComponentProgram {
    bound: component::InstancePre<Host>,
    entry: Entry,
    /// Its code counts fuel.
    counts: bool,
}

impl ComponentProgram {
    pub(super) fn new(bound: component::InstancePre<Host>, entry: Entry, counts: bool) -> Self {
        Self { bound, entry, counts }
    }

    async fn call(&self, guest: &Guest, mut wasi: WasiCtxBuilder) -> wasmtime::Result<u8> {
        let outgoing = Outgoing::new(guest);
        let mut store = store(self.bound.engine(), guest, self.counts, &mut wasi, &outgoing)?;
        // No clock advances the epoch here: the end of the guest is the end of the process.
        store.set_epoch_deadline(u64::MAX / 2);
        let Some(name) = &guest.function else {
            let result = match &self.entry {
                Entry::Command(command) => {
                    let command = command.instantiate_async(&mut store).await?;
                    command.wasi_cli_run().call_run(&mut store).await?
                }
                Entry::AsyncCommand(command) => {
                    let command = command.instantiate_async(&mut store).await?;
                    let run = async move |store: &_| command.wasi_cli_run().call_run(store).await;
                    store.run_concurrent(run).await??
                }
                Entry::Service(_) | Entry::None(_) => {
                    wasmtime::bail!("export {:?} is gone", entry_point(WasmKind::Component))
                }
            };
            return Ok(u8::from(result.is_err()));
        };
        let instance = self.bound.instantiate_async(&mut store).await?;
        let Some(function) = instance.get_func(&mut store, name.as_str()) else {
            wasmtime::bail!("export {name:?} is gone");
        };
        let mut results = vec![component::Val::Bool(false); function.ty(&store).results().len()];
        function.call_async(&mut store, &[], &mut results).await?;
        let failed = matches!(results.first(), Some(component::Val::Result(Err(_))));
        Ok(u8::from(failed))
    }
}

impl Program for ComponentProgram {
    fn check(&self, guest: &Guest) -> Result<(), RunError> {
        let Some(name) = &guest.function else {
            return match &self.entry {
                Entry::None(reason) => Err(no_such_function(entry_point(WasmKind::Component), reason)),
                _ => Ok(()),
            };
        };
        exports::check(guest, |_| {
            Some(match self.bound.component().get_export(None, name.as_str())? {
                (ComponentItem::ComponentFunc(function), _) => Export::Function { parameters: function.params().len() },
                _ => Export::Other,
            })
        })
    }

    fn serves(&self) -> bool {
        matches!(self.entry, Entry::Service(_))
    }

    fn run(&self, guest: &Guest) -> Result<u8, RunError> {
        self.check(guest)?;
        match &self.entry {
            Entry::Service(service) if guest.function.is_none() => service.run(guest, self.counts),
            _ => run(guest, |wasi, _| self.call(guest, wasi)),
        }
    }
}

/// Sets up WASI and a runtime, and runs `call` in them; its second argument is the number of folders.
fn run<F>(guest: &Guest, call: impl FnOnce(WasiCtxBuilder, usize) -> F) -> Result<u8, RunError>
where
    F: Future<Output = wasmtime::Result<u8>>,
{
    traps::restore().map_err(|error| setup(format!("cannot restore signal handlers: {error}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| setup(format!("cannot start the asynchronous runtime: {error}")))?;
    let mut wasi = wasi(guest);
    let folders = open_folders(&mut wasi, guest)?;
    wasi.allow_blocking_current_thread(true);
    let result = runtime.block_on(call(wasi, folders));
    // Tasks that the guest has started and not awaited are dropped.
    runtime.shutdown_background();
    result.or_else(|error| outcome(&error))
}
