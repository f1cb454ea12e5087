//! Runs a loaded program to its end, on the calling thread.
//!
//! The asynchronous runtime that WASI needs is made here, in the container. It has one thread, for timers: files are read
//! and written where the guest waits for them anyway.

use nix::sys::signal::{SigSet, Signal};
use tokio::runtime::Runtime;
use wasmer::sys::{BaseTunables, NativeEngineExt as _};
use wasmer::{
    AsStoreRef as _, Engine, ExternType, Function, Imports, Instance, InstantiationError, LinkError, Memory,
    MemoryType, Module, RuntimeError, Store,
};
use wasmer_wasix::runtime::task_manager::tokio::TokioTaskManager;
use wasmer_wasix::{
    PluggableRuntime, WasiEnvBuilder, WasiError, WasiFunctionEnv, WasiModuleInstanceHandles, WasiModuleTreeHandles,
    WasiVersion, generate_import_object_from_env,
};

use super::limits::Limits;
use super::stdio::Stream;
use super::{folders, one_line, preview1};
use crate::{Guest, Outcome, Program, RunError, WasmKind, entry_point};

/// Faults that native code may cause on purpose: out-of-bounds access, `unreachable`, division by zero.
const FAULTS: [Signal; 3] = [Signal::SIGSEGV, Signal::SIGILL, Signal::SIGFPE];

/// A module that is mapped.
pub(super) struct ModuleProgram {
    engine: Engine,
    module: Module,
    tunables: BaseTunables,
    stack: usize,
}

impl ModuleProgram {
    pub(super) fn new(engine: Engine, module: Module, tunables: BaseTunables, stack: usize) -> Self {
        Self { engine, module, tunables, stack }
    }

    fn call(&self, guest: &Guest, runtime: &Runtime) -> Result<u8, RunError> {
        let mut engine = self.engine.clone();
        engine.set_tunables(Limits::new(self.tunables.clone(), self.stack, guest.memory_limit));
        // The store installs the signal handlers, in the process that runs the guest.
        let mut store = Store::new(engine.clone());
        let wasi = environment(guest)?;
        let (mut wasi, imports) = link(wasi, engine, runtime, &mut store)?;
        match self.instantiate_and_call(guest, &mut store, &mut wasi, &imports) {
            Ok(()) => Ok(0),
            Err(Stop::Setup(error)) => Err(error),
            Err(Stop::Ended(error)) => ended(&error),
        }
    }

    fn instantiate_and_call(
        &self,
        guest: &Guest,
        store: &mut Store,
        wasi: &mut WasiFunctionEnv,
        imports: &Imports,
    ) -> Result<(), Stop> {
        // A start function may call WASI before there is an instance that WASI could be told of.
        let instance = Instance::new(store, &self.module, imports)?;
        attach(store, wasi, &instance)?;
        // A command sets itself up in its entry point; only a library has a function for it.
        if guest.function.is_some()
            && let Ok(initialize) = instance.exports.get_function("_initialize")
        {
            initialize.call(store, &[])?;
        }
        let name = guest.function.as_deref().unwrap_or(entry_point(WasmKind::Module));
        let function = instance.exports.get_function(name).map_err(|error| Stop::Setup(setup(one_line(&error))))?;
        function.call(store, &[])?;
        Ok(())
    }
}

impl Program for ModuleProgram {
    fn check(&self, guest: &Guest) -> Result<(), RunError> {
        let name = guest.function.as_deref().unwrap_or(entry_point(WasmKind::Module));
        let refused =
            |reason: &str| Err(RunError::NoSuchFunction { function: name.to_owned(), reason: reason.to_owned() });
        match self.module.exports().find(|export| export.name() == name).map(|export| export.ty().clone()) {
            Some(ExternType::Function(function)) if function.params().is_empty() => Ok(()),
            Some(ExternType::Function(_)) => refused("it wants parameters"),
            Some(_) => refused("it is no function"),
            None => refused("there is none of that name"),
        }
    }

    fn run(&self, guest: &Guest) -> Result<Outcome, RunError> {
        self.check(guest)?;
        if guest.fuel.is_some() {
            return Err(setup("wasmer cannot limit how much a guest executes".to_owned()));
        }
        SigSet::from_iter(FAULTS).thread_unblock().map_err(|error| setup(format!("signals: {error}")))?;
        let runtime = runtime().map_err(|error| setup(format!("asynchronous runtime: {error}")))?;
        let code = self.call(guest, &runtime);
        // A timer that still runs is not waited for.
        runtime.shutdown_background();
        Ok(Outcome::Exit(code?))
    }
}

/// Why a guest stopped before its entry point returned.
enum Stop {
    /// It never ran.
    Setup(RunError),
    /// It exited or trapped.
    Ended(RuntimeError),
}

impl From<RuntimeError> for Stop {
    fn from(error: RuntimeError) -> Self {
        Self::Ended(error)
    }
}

impl From<InstantiationError> for Stop {
    fn from(error: InstantiationError) -> Self {
        match error {
            InstantiationError::Start(error) | InstantiationError::Link(LinkError::Trap(error)) => Self::Ended(error),
            error => Self::Setup(setup(one_line(&error))),
        }
    }
}

/// A guest's own exit, on its way through native code.
#[derive(Debug, thiserror::Error)]
#[error("the guest exits with {0}")]
struct Exit(i32);

/// Makes the runtime of one guest.
pub(super) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build()
}

/// Makes a store and an environment with nothing in it, to look at what is offered.
#[cfg(test)]
pub(super) fn empty(runtime: &Runtime) -> Result<(Store, WasiFunctionEnv, Imports), RunError> {
    let engine = super::options::Options::host().loading_engine();
    let mut store = Store::new(engine.clone());
    let (wasi, imports) = link(WasiEnvBuilder::default(), engine, runtime, &mut store)?;
    Ok((store, wasi, imports))
}

/// Takes from a guest's description what WASI is to show it.
fn environment(guest: &Guest) -> Result<WasiEnvBuilder, RunError> {
    // There is no network, whatever is granted: nothing that a guest may import opens a socket, and none is handed to it.
    let mut wasi = WasiEnvBuilder::default()
        .args(&guest.args)
        .envs(guest.env.iter().map(|(name, value)| (name, value)))
        .stdin(Box::new(Stream::stdin()))
        .stdout(Box::new(Stream::stdout()))
        .stderr(Box::new(Stream::stderr()));
    folders::open(guest, &mut wasi)?;
    Ok(wasi)
}

/// Makes what a guest imports.
fn link(
    wasi: WasiEnvBuilder,
    engine: Engine,
    runtime: &Runtime,
    store: &mut Store,
) -> Result<(WasiFunctionEnv, Imports), RunError> {
    let mut services = PluggableRuntime::new(std::sync::Arc::new(TokioTaskManager::new(runtime.handle().clone())));
    services.set_engine(engine);
    let wasi = wasi.runtime(std::sync::Arc::new(services)).finalize(store);
    let wasi = wasi.map_err(|error| setup(one_line(&error)))?;
    let mut imports = generate_import_object_from_env(store, &wasi.env, WasiVersion::Snapshot1);
    // wasmer's own keeps sixteen bits of the code and changes those above.
    let exit = Function::new_typed(store, |code: i32| -> Result<(), Exit> { Err(Exit(code)) });
    imports.define(preview1::MODULE, "proc_exit", exit);
    Ok((wasi, imports))
}

/// Tells WASI which memory is the guest's.
fn attach(store: &mut Store, wasi: &mut WasiFunctionEnv, instance: &Instance) -> Result<(), Stop> {
    let memory = match instance.exports.get_memory("memory") {
        Ok(memory) => memory.clone(),
        // Without one, a guest can still call what needs none.
        Err(_) => Memory::new(store, MemoryType::new(0, Some(0), false))
            .map_err(|error| Stop::Setup(setup(one_line(&error))))?,
    };
    let handles = WasiModuleInstanceHandles::new(memory, &store.as_store_ref(), instance.clone(), None);
    let handles = WasiModuleTreeHandles::Static(handles);
    wasi.initialize_handles_and_layout(store, instance.clone(), handles, None, true)
        .map_err(|error| Stop::Setup(setup(one_line(&error))))
}

/// Tells the guest's own exit from a trap.
fn ended(error: &RuntimeError) -> Result<u8, RunError> {
    if let Some(Exit(code)) = error.downcast_ref() {
        // The system keeps eight bits of an exit code.
        return Ok(code.to_le_bytes()[0]);
    }
    if let Some(WasiError::Exit(code)) = error.downcast_ref() {
        return Ok(code.raw().to_le_bytes()[0]);
    }
    let mut message = format!("wasm trap: {}", error.message());
    for (depth, frame) in error.trace().iter().enumerate() {
        let function = frame.function_name().map_or_else(|| format!("function {}", frame.func_index()), str::to_owned);
        message.push_str(&format!("\n  {depth}: {:#x} - {}!{function}", frame.module_offset(), frame.module_name()));
    }
    Err(RunError::Trap { message })
}

fn setup(reason: String) -> RunError {
    RunError::Setup { reason }
}
