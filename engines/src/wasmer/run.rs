//! Runs a loaded program to its end, on the calling thread.

use nix::sys::signal::{SigSet, Signal};
use wasmer::sys::{BaseTunables, NativeEngineExt as _};
use wasmer::{
    Engine, ExternType, Function, FunctionEnv, FunctionEnvMut, Imports, Instance, InstantiationError, LinkError,
    Memory, Module, RuntimeError, Store,
};

use super::limits::LimitedTunables;
use super::one_line;
use crate::end::{End, setup};
use crate::exports::{self, Export};
use crate::wasi::{self, Call, Wasi};
use crate::{Guest, Network, Program, RunError, preview1};

/// Faults that native code may cause on purpose: out-of-bounds access, `unreachable`, division by zero.
const FAULTS: [Signal; 3] = [Signal::SIGSEGV, Signal::SIGILL, Signal::SIGFPE];

/// A mapped module.
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

    fn call(&self, guest: &Guest) -> Result<u8, RunError> {
        let mut engine = self.engine.clone();
        engine.set_tunables(LimitedTunables::new(self.tunables.clone(), self.stack, guest.memory_limit));
        // The store installs the signal handlers, in the process that runs the guest.
        let mut store = Store::new(engine);
        let state = FunctionEnv::new(&mut store, State { wasi: Wasi::new(guest)?, memory: None });
        self.instantiate_and_call(guest, &mut store, &state).err().unwrap_or(End::Exited(0)).exit_code()
    }

    fn export(&self, name: &str) -> Option<Export> {
        let export = self.module.exports().find(|export| export.name() == name)?;
        Some(match export.ty() {
            ExternType::Function(function) => Export::Function { parameters: function.params().len() },
            _ => Export::Other,
        })
    }

    fn instantiate_and_call(&self, guest: &Guest, store: &mut Store, state: &FunctionEnv<State>) -> Result<(), End> {
        // A start function may call WASI before the instance exists, so WASI has no memory yet.
        let imports = imports(store, state);
        let instance = Instance::new(store, &self.module, &imports)?;
        state.as_mut(store).memory = instance.exports.get_memory("memory").ok().cloned();
        if let Some(initialize) = exports::initializer(guest)
            && let Ok(initialize) = instance.exports.get_function(initialize)
        {
            initialize.call(store, &[])?;
        }
        let function = instance.exports.get_function(exports::entry(guest, |name| self.export(name)));
        function.map_err(|error| End::NotStarted(one_line(&error)))?.call(store, &[])?;
        Ok(())
    }
}

impl Program for ModuleProgram {
    fn check(&self, guest: &Guest) -> Result<(), RunError> {
        exports::check(guest, |name| self.export(name))
    }

    fn run(&self, guest: &Guest) -> Result<u8, RunError> {
        self.check(guest)?;
        if guest.fuel.is_some() {
            return Err(setup("wasmer cannot limit how much a guest executes".to_owned()));
        }
        SigSet::from_iter(FAULTS)
            .thread_unblock()
            .map_err(|error| setup(format!("cannot unblock signals: {error}")))?;
        match guest.network {
            // A guest can import no function that opens a socket, and gets no descriptor that is one.
            Network::Inherit | Network::None => {}
        }
        self.call(guest)
    }
}

impl From<RuntimeError> for End {
    /// Tells the guest's own exit from a trap.
    fn from(error: RuntimeError) -> Self {
        if let Some(Exit(code)) = error.downcast_ref() {
            return Self::Exited(code.cast_unsigned());
        }
        let mut message = format!("wasm trap: {}", error.message());
        for (depth, frame) in error.trace().iter().enumerate() {
            let function =
                frame.function_name().map_or_else(|| format!("function {}", frame.func_index()), str::to_owned);
            let (offset, module) = (frame.module_offset(), frame.module_name());
            message.push_str(&format!("\n  {depth}: {offset:#x} - {module}!{function}"));
        }
        Self::Trapped(message)
    }
}

impl From<InstantiationError> for End {
    fn from(error: InstantiationError) -> Self {
        match error {
            InstantiationError::Start(error) | InstantiationError::Link(LinkError::Trap(error)) => error.into(),
            error => Self::NotStarted(one_line(&error)),
        }
    }
}

/// A guest's own exit, on its way through native code.
#[derive(Debug, thiserror::Error)]
#[error("the guest exits with {0}")]
struct Exit(i32);

/// The data of WASI's functions.
struct State {
    wasi: Wasi,
    /// The guest's memory.
    memory: Option<Memory>,
}

/// Makes the guest's imports.
fn imports(store: &mut Store, state: &FunctionEnv<State>) -> Imports {
    let mut imports = Imports::new();
    for (name, parameters, call) in wasi::functions() {
        if let Some(function) = function(store, state, parameters, call) {
            imports.define(preview1::MODULE, name, function);
        }
    }
    let exit = Function::new_typed(store, |code: i32| -> Result<(), Exit> { Err(Exit(code)) });
    imports.define(preview1::MODULE, "proc_exit", exit);
    imports
}

/// Makes a function with these parameters; `None` if no function of WASI has them.
fn function(store: &mut Store, state: &FunctionEnv<State>, parameters: &str, call: Call) -> Option<Function> {
    /// A function for each list of parameters.
    macro_rules! with {
        ($($letters:literal => $($name:ident: $type:ty),*;)*) => {
            match parameters {
                $($letters => {
                    let function = move |state: FunctionEnvMut<'_, State>, $($name: $type),*| -> i32 {
                        answer(state, call, &[$($name.bits()),*])
                    };
                    Function::new_typed_with_env(store, state, function)
                })*
                _ => return None,
            }
        };
    }
    Some(with! {
        "" => ;
        "i" => a: i32;
        "ii" => a: i32, b: i32;
        "iii" => a: i32, b: i32, c: i32;
        "iiii" => a: i32, b: i32, c: i32, d: i32;
        "iiiii" => a: i32, b: i32, c: i32, d: i32, e: i32;
        "iiiiii" => a: i32, b: i32, c: i32, d: i32, e: i32, f: i32;
        "iiiiiii" => a: i32, b: i32, c: i32, d: i32, e: i32, f: i32, g: i32;
        "iI" => a: i32, b: i64;
        "iII" => a: i32, b: i64, c: i64;
        "iIi" => a: i32, b: i64, c: i32;
        "iIii" => a: i32, b: i64, c: i32, d: i32;
        "iIIi" => a: i32, b: i64, c: i64, d: i32;
        "iiiIi" => a: i32, b: i32, c: i32, d: i64, e: i32;
        "iiiiIIi" => a: i32, b: i32, c: i32, d: i32, e: i64, f: i64, g: i32;
        "iiiiiIIii" => a: i32, b: i32, c: i32, d: i32, e: i32, f: i64, g: i64, h: i32, i: i32;
    })
}

/// A parameter as [`Wasi::call`] takes it.
trait Bits {
    fn bits(self) -> u64;
}

impl Bits for i32 {
    fn bits(self) -> u64 {
        self.cast_unsigned().into()
    }
}

impl Bits for i64 {
    fn bits(self) -> u64 {
        self.cast_unsigned()
    }
}

/// Calls a function of WASI for the guest.
fn answer(mut state: FunctionEnvMut<'_, State>, call: Call, arguments: &[u64]) -> i32 {
    let (State { wasi, memory }, store) = state.data_and_store_mut();
    let Some(memory) = memory else { return wasi.call(call, &mut [], arguments) };
    let view = memory.view(&store);
    // SAFETY: the guest waits for the answer, and has no other thread: its memory is not shared, because the engine
    // refuses such modules.
    wasi.call(call, unsafe { view.data_unchecked_mut() }, arguments)
}

#[cfg(test)]
mod tests {
    use wasmer::{AsStoreMut as _, Extern, Type};

    use super::*;

    fn letters(types: &[Type]) -> String {
        let letter = |ty: &Type| match ty {
            Type::I32 => 'i',
            Type::I64 => 'I',
            other => panic!("{other}"),
        };
        types.iter().map(letter).collect()
    }

    /// The engine offers each function that a guest may import, with its type.
    #[test]
    fn functions_of_wasi_are_offered() {
        let mut store = Store::new(super::super::options::CodeOptions::host().loading_engine());
        let wasi = Wasi::new(&Guest::default()).unwrap();
        let state = FunctionEnv::new(&mut store, State { wasi, memory: None });
        let imports = imports(&mut store, &state);
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
