//! Runs a loaded program to its end, on the calling thread.
//!
//! The asynchronous runtime that WASI needs is made here, in the container, and has no thread of its own: files are read
//! and written where the guest waits for them anyway. Only reading stdin takes a thread, which does not keep the process
//! from ending.

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{self, ResourceTable};
use wasmtime::{Store, Trap, Val, WasmBacktrace};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder};

use super::limits::Limits;
use super::link::{Host, ModuleHost};
use super::{one_line, stdio, traps};
use crate::preopens::{self, Folder};
use crate::{Guest, Network, Outcome, Program, RunError, WasmKind, entry_point};

/// A module whose imports are bound.
pub(super) struct ModuleProgram {
    bound: wasmtime::InstancePre<ModuleHost>,
}

impl ModuleProgram {
    pub(super) fn new(bound: wasmtime::InstancePre<ModuleHost>) -> Self {
        Self { bound }
    }

    async fn call(&self, guest: &Guest, mut wasi: WasiCtxBuilder) -> wasmtime::Result<u8> {
        let host = ModuleHost { wasi: wasi.build_p1(), limits: Limits::new(guest.memory_limit) };
        let mut store = Store::new(self.bound.module().engine(), host);
        store.limiter(|host| &mut host.limits);
        let instance = self.bound.instantiate_async(&mut store).await?;
        // A command sets itself up in its entry point; only a library has a function for it.
        if guest.function.is_some()
            && let Some(initialize) = instance.get_func(&mut store, "_initialize")
        {
            initialize.call_async(&mut store, &[], &mut []).await?;
        }
        let name = guest.function.as_deref().unwrap_or(entry_point(WasmKind::Module));
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
        let name = guest.function.as_deref().unwrap_or(entry_point(WasmKind::Module));
        match self.bound.module().get_export(name) {
            Some(wasmtime::ExternType::Func(function)) if function.params().len() == 0 => Ok(()),
            Some(wasmtime::ExternType::Func(_)) => Err(no_such_function(name, "it wants parameters")),
            Some(_) => Err(no_such_function(name, "it is no function")),
            None => Err(no_such_function(name, "there is none of that name")),
        }
    }

    fn run(&self, guest: &Guest) -> Result<Outcome, RunError> {
        self.check(guest)?;
        run(guest, |wasi| self.call(guest, wasi))
    }
}

/// A component whose imports are bound.
pub(super) struct ComponentProgram {
    bound: component::InstancePre<Host>,
}

impl ComponentProgram {
    pub(super) fn new(bound: component::InstancePre<Host>) -> Self {
        Self { bound }
    }

    async fn call(&self, guest: &Guest, mut wasi: WasiCtxBuilder) -> wasmtime::Result<u8> {
        let limits = Limits::new(guest.memory_limit);
        let host = Host { wasi: wasi.build(), table: ResourceTable::new(), limits };
        let mut store = Store::new(self.bound.engine(), host);
        store.limiter(|host| &mut host.limits);
        let Some(name) = &guest.function else {
            let command = CommandPre::new(self.bound.clone())?.instantiate_async(&mut store).await?;
            let result = command.wasi_cli_run().call_run(&mut store).await?;
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
            return match CommandPre::new(self.bound.clone()) {
                Ok(_) => Ok(()),
                Err(error) => Err(no_such_function(entry_point(WasmKind::Component), &one_line(&error))),
            };
        };
        match self.bound.component().get_export(None, name.as_str()) {
            Some((ComponentItem::ComponentFunc(function), _)) if function.params().len() == 0 => Ok(()),
            Some((ComponentItem::ComponentFunc(_), _)) => Err(no_such_function(name, "it wants parameters")),
            Some(_) => Err(no_such_function(name, "it is no function")),
            None => Err(no_such_function(name, "there is none of that name")),
        }
    }

    fn run(&self, guest: &Guest) -> Result<Outcome, RunError> {
        self.check(guest)?;
        run(guest, |wasi| self.call(guest, wasi))
    }
}

/// Sets up WASI and a runtime, and lets `call` run in them.
fn run<F>(guest: &Guest, call: impl FnOnce(WasiCtxBuilder) -> F) -> Result<Outcome, RunError>
where
    F: Future<Output = wasmtime::Result<u8>>,
{
    traps::restore().map_err(|error| setup(format!("signal handlers: {error}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| setup(format!("asynchronous runtime: {error}")))?;
    let wasi = wasi(guest)?;
    let result = runtime.block_on(call(wasi));
    // A name lookup that still runs is not waited for.
    runtime.shutdown_background();
    outcome(result)
}

fn wasi(guest: &Guest) -> Result<WasiCtxBuilder, RunError> {
    let mut wasi = WasiCtxBuilder::new();
    wasi.args(&guest.args)
        .envs(&guest.env)
        .inherit_stdin()
        .stdout(stdio::Output::new(rustix::stdio::stdout()))
        .stderr(stdio::Output::new(rustix::stdio::stderr()))
        .allow_blocking_current_thread(true);
    match guest.network {
        Network::Inherit => wasi.inherit_network().allow_tcp(true).allow_udp(true).allow_ip_name_lookup(true),
        Network::None => wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false),
    };
    if let Some(cwd) = guest.cwd.to_str().filter(|cwd| !cwd.is_empty()) {
        wasi.initial_cwd(cwd);
    }
    for Folder { host, guest, read_only, required } in preopens::resolve(&guest.preopens, &guest.cwd) {
        let permissions = if read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
        match wasi.preopened_dir(&host, &guest, permissions) {
            Ok(_) => {}
            Err(error) if required => {
                return Err(setup(format!("folder {} as {guest:?}: {}", host.display(), one_line(&error))));
            }
            Err(_) => {}
        }
    }
    Ok(wasi)
}

/// Tells the guest's own exit from a trap, and both from what failed before the guest ran.
fn outcome(result: wasmtime::Result<u8>) -> Result<Outcome, RunError> {
    let error = match result {
        Ok(code) => return Ok(Outcome::Exit(code)),
        Err(error) => error,
    };
    if let Some(I32Exit(code)) = error.downcast_ref() {
        // The system keeps eight bits of an exit code.
        return Ok(Outcome::Exit(code.to_le_bytes()[0]));
    }
    let backtrace = error.downcast_ref::<WasmBacktrace>();
    if backtrace.is_none() && !error.is::<Trap>() {
        return Err(setup(one_line(&error)));
    }
    let mut message = one_line(&error);
    if let Some(backtrace) = backtrace {
        message.push('\n');
        message.push_str(&backtrace.to_string());
    }
    Err(RunError::Trap { message })
}

fn setup(reason: String) -> RunError {
    RunError::Setup { reason }
}

fn no_such_function(function: &str, reason: &str) -> RunError {
    RunError::NoSuchFunction { function: function.to_string(), reason: reason.to_string() }
}
