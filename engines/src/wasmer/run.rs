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
use super::{folders, one_line};
use crate::exports::{self, Export};
use crate::{Guest, Program, RunError, preview1};

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
        if let Some(initialize) = exports::initializer(guest)
            && let Ok(initialize) = instance.exports.get_function(initialize)
        {
            initialize.call(store, &[])?;
        }
        let function = instance.exports.get_function(exports::entry(guest));
        function.map_err(|error| Stop::Setup(setup(one_line(&error))))?.call(store, &[])?;
        Ok(())
    }
}

impl Program for ModuleProgram {
    fn check(&self, guest: &Guest) -> Result<(), RunError> {
        exports::check(guest, |name| {
            let export = self.module.exports().find(|export| export.name() == name)?;
            Some(match export.ty() {
                ExternType::Function(function) => Export::Function { parameters: function.params().len() },
                _ => Export::Other,
            })
        })
    }

    fn run(&self, guest: &Guest) -> Result<u8, RunError> {
        self.check(guest)?;
        if guest.fuel.is_some() {
            return Err(setup("wasmer cannot limit how much a guest executes".to_owned()));
        }
        SigSet::from_iter(FAULTS).thread_unblock().map_err(|error| setup(format!("signals: {error}")))?;
        let runtime = runtime().map_err(|error| setup(format!("asynchronous runtime: {error}")))?;
        let code = self.call(guest, &runtime);
        // A timer that still runs is not waited for.
        runtime.shutdown_background();
        Ok(code?)
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
fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build()
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

#[cfg(test)]
mod tests {
    use wasmer::{AsStoreMut as _, Extern, Type};

    use super::*;

    /// Makes a store and an environment with nothing in it, to look at what is offered.
    fn empty(runtime: &Runtime) -> Result<(Store, WasiFunctionEnv, Imports), RunError> {
        let engine = super::super::options::Options::host().loading_engine();
        let mut store = Store::new(engine.clone());
        let (wasi, imports) = link(WasiEnvBuilder::default(), engine, runtime, &mut store)?;
        Ok((store, wasi, imports))
    }

    fn letters(types: &[Type]) -> String {
        let letter = |ty: &Type| match ty {
            Type::I32 => 'i',
            Type::I64 => 'I',
            other => panic!("{other}"),
        };
        types.iter().map(letter).collect()
    }

    /// Each function that a guest may import is offered with that type.
    #[test]
    fn functions_of_wasi_are_offered() {
        let runtime = runtime().unwrap();
        let (mut store, _, imports) = empty(&runtime).unwrap();
        for (name, parameters, results) in preview1::FUNCTIONS {
            let Some(Extern::Function(function)) = imports.get_export(preview1::MODULE, name) else {
                panic!("{name} is not offered");
            };
            let ty = function.ty(&store.as_store_mut());
            assert_eq!(
                (letters(ty.params()).as_str(), letters(ty.results()).as_str()),
                (parameters, results),
                "{name}"
            );
        }
    }
}
