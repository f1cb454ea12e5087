//! The calls of WasmEdge's C interface that run a module, made safe: one instance, from its beginning to its end.

use std::ffi::c_void;
use std::{ptr, slice};

use wasmedge_sys::ffi;

use super::library::{Configuration, Module, said};
use super::{rewrite, stack};
use crate::preview1;
use crate::wasi::{self, Call, Wasi};

/// Bytes of a page of memory.
const PAGE: u64 = 64 << 10;

/// What a guest is started with.
pub(super) struct Settings {
    pub(super) configuration: Configuration,
    /// How much it may execute.
    pub(super) fuel: Option<u64>,
}

// SAFETY: a configuration is only read once the settings are made.
unsafe impl Sync for Settings {}

/// How it ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Each function returned.
    Returned,
    /// The guest exited with a code.
    Exited(u32),
    /// The guest trapped.
    Trapped(String),
    /// It was never started.
    NotStarted(String),
}

/// Calls exported functions without parameters, one after the other until one does not return. To be called on a thread that
/// [`stack::run`] has started.
pub(super) fn run(module: &Module, settings: &Settings, wasi: Wasi, calls: &[&str]) -> Ended {
    let instance = match Instance::make(module, settings, wasi) {
        Ok(instance) => instance,
        Err(reason) => return Ended::NotStarted(reason),
    };
    match instance.call(calls) {
        Ok(result) => instance.ended(result),
        Err(reason) => Ended::NotStarted(reason),
    }
}

/// What is made for one run, and released with it in the order in which one stands on the other.
#[derive(Debug)]
struct Instance {
    statistics: *mut ffi::WasmEdge_StatisticsContext,
    executor: *mut ffi::WasmEdge_ExecutorContext,
    store: *mut ffi::WasmEdge_StoreContext,
    wasi: *mut ffi::WasmEdge_ModuleInstanceContext,
    own: *mut ffi::WasmEdge_ModuleInstanceContext,
    guest: *mut ffi::WasmEdge_ModuleInstanceContext,
    /// What [`hold`] is told.
    calls: Box<Calls>,
    /// What [`answer`] and [`exit`] are told.
    state: *mut State,
    /// What [`answer`] is told besides, for each function.
    functions: Box<[Import]>,
}

/// Functions to be called by [`hold`], and how the last one ended.
#[derive(Debug)]
struct Calls {
    executor: *mut ffi::WasmEdge_ExecutorContext,
    functions: Vec<*mut ffi::WasmEdge_FunctionInstanceContext>,
    result: Option<Result<ffi::WasmEdge_Result, String>>,
}

/// What a guest has of WASI, and what it exits with.
#[derive(Debug)]
struct State {
    wasi: Wasi,
    code: u32,
}

/// A function of WASI's.
#[derive(Debug)]
struct Import {
    name: &'static str,
    call: Call,
    parameters: &'static str,
    state: *mut State,
}

impl Instance {
    fn make(module: &Module, settings: &Settings, wasi: Wasi) -> Result<Self, String> {
        // SAFETY: the configuration lives, and is copied. What is made belongs to the value.
        let mut instance = unsafe {
            let statistics = ffi::WasmEdge_StatisticsCreate();
            let executor = ffi::WasmEdge_ExecutorCreate(settings.configuration.as_ptr(), statistics);
            Self {
                statistics,
                executor,
                store: ffi::WasmEdge_StoreCreate(),
                wasi: ffi::WasmEdge_ModuleInstanceCreate(string(preview1::MODULE)),
                own: ffi::WasmEdge_ModuleInstanceCreate(string(rewrite::MODULE)),
                guest: ptr::null_mut(),
                calls: Box::new(Calls { executor, functions: Vec::new(), result: None }),
                state: Box::into_raw(Box::new(State { wasi, code: 0 })),
                functions: Box::default(),
            }
        };
        if instance.statistics.is_null()
            || instance.executor.is_null()
            || instance.store.is_null()
            || instance.wasi.is_null()
            || instance.own.is_null()
        {
            return Err("wasmedge has no memory".to_owned());
        }
        instance.link(settings.fuel)?;
        // SAFETY: all of it was made, the module is loaded, and its import is there.
        unsafe {
            said(ffi::WasmEdge_ExecutorInstantiate(
                instance.executor,
                &mut instance.guest,
                instance.store,
                module.as_ptr(),
            ))?;
        }
        Ok(instance)
    }

    /// Offers WASI and [`hold`] to the guest.
    fn link(&mut self, fuel: Option<u64>) -> Result<(), String> {
        if let Some(fuel) = fuel {
            // SAFETY: the statistics were made.
            unsafe { ffi::WasmEdge_StatisticsSetCostLimit(self.statistics, fuel) };
        }
        let state = self.state;
        self.functions =
            wasi::functions().map(|(name, parameters, call)| Import { name, call, parameters, state }).collect();
        for import in &self.functions {
            offer(self.wasi, import.name, (import.parameters, "i"), answer, (&raw const *import).cast_mut().cast())?;
        }
        offer(self.wasi, "proc_exit", ("i", ""), exit, self.state.cast())?;
        offer(self.own, rewrite::HOLD, ("", ""), hold, (&raw mut *self.calls).cast())?;
        // SAFETY: all of it was made.
        unsafe {
            said(ffi::WasmEdge_ExecutorRegisterImport(self.executor, self.store, self.wasi))?;
            said(ffi::WasmEdge_ExecutorRegisterImport(self.executor, self.store, self.own))
        }
    }

    /// Calls functions, from within the export that calls [`hold`].
    fn call(&self, calls: &[&str]) -> Result<ffi::WasmEdge_Result, String> {
        let find = |name: &str| {
            // SAFETY: the instance lives, and so does the name through the call.
            let function = unsafe { ffi::WasmEdge_ModuleInstanceFindFunction(self.guest, string(name)) };
            if function.is_null() { Err(format!("export {name:?} is gone")) } else { Ok(function) }
        };
        let functions = calls.iter().map(|name| find(name)).collect::<Result<Vec<_>, _>>()?;
        let hold = find(rewrite::HOLD)?;
        let calls = (&raw const *self.calls).cast_mut();
        // SAFETY: nobody else looks at the calls before the function has returned; it has no parameters and no results.
        unsafe {
            (*calls).functions = functions;
            let held = ffi::WasmEdge_ExecutorInvoke(self.executor, hold, ptr::null(), 0, ptr::null_mut(), 0);
            // When all fuel is consumed, there is none for the function that holds either.
            (*calls).result.take().unwrap_or_else(|| said(held).and(Err("wasmedge has called nothing".to_owned())))
        }
    }

    fn ended(&self, result: ffi::WasmEdge_Result) -> Ended {
        // SAFETY: the code is a part of the result; the state lives, and no function uses it any more.
        let (code, exit) = unsafe { (ffi::WasmEdge_ResultGetCode(result), (*self.state).code) };
        match said(result) {
            Ok(()) if code == ffi::WasmEdge_ErrCode_Terminated => Ended::Exited(exit),
            Ok(()) => Ended::Returned,
            Err(_) if code == ffi::WasmEdge_ErrCode_CostLimitExceeded => {
                Ended::Trapped("all fuel consumed by WebAssembly".to_owned())
            }
            Err(reason) => Ended::Trapped(reason),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: all of it was made by `make` (what was not is null, which is fine), and nothing of it is used any more. The state comes from
        // a box.
        unsafe {
            ffi::WasmEdge_ModuleInstanceDelete(self.guest);
            ffi::WasmEdge_StoreDelete(self.store);
            ffi::WasmEdge_ModuleInstanceDelete(self.own);
            ffi::WasmEdge_ModuleInstanceDelete(self.wasi);
            ffi::WasmEdge_ExecutorDelete(self.executor);
            ffi::WasmEdge_StatisticsDelete(self.statistics);
            drop(Box::from_raw(self.state));
        }
    }
}

/// A function of the process that a guest may import.
type HostFunction = unsafe extern "C" fn(
    *mut c_void,
    *const ffi::WasmEdge_CallingFrameContext,
    *const ffi::WasmEdge_Value,
    *mut ffi::WasmEdge_Value,
) -> ffi::WasmEdge_Result;

/// Adds a function to a module: its parameters and results as [`preview1::FUNCTIONS`] writes them, and what it is told.
fn offer(
    module: *mut ffi::WasmEdge_ModuleInstanceContext,
    name: &str,
    (parameters, results): (&str, &str),
    function: HostFunction,
    told: *mut c_void,
) -> Result<(), String> {
    let types = |letters: &str| -> Vec<ffi::WasmEdge_ValType> {
        // SAFETY: it makes a number.
        let ty = |letter| unsafe {
            if letter == 'I' { ffi::WasmEdge_ValTypeGenI64() } else { ffi::WasmEdge_ValTypeGenI32() }
        };
        letters.chars().map(ty).collect()
    };
    let (parameters, results) = (types(parameters), types(results));
    let count = |types: &[ffi::WasmEdge_ValType]| u32::try_from(types.len()).unwrap_or(u32::MAX);
    // SAFETY: the lists have the lengths that are given; the type is released when the function has copied it, and the function belongs to
    // the module then. What the function is told lives as long as the instance that the module is of.
    unsafe {
        let ty = ffi::WasmEdge_FunctionTypeCreate(
            parameters.as_ptr(),
            count(&parameters),
            results.as_ptr(),
            count(&results),
        );
        let function = ffi::WasmEdge_FunctionInstanceCreate(ty, Some(function), told, 0);
        ffi::WasmEdge_FunctionTypeDelete(ty);
        if function.is_null() {
            return Err("wasmedge has no memory".to_owned());
        }
        ffi::WasmEdge_ModuleInstanceAddFunction(module, string(name), function);
    }
    Ok(())
}

/// Calls a function of WASI's for the guest.
unsafe extern "C" fn answer(
    import: *mut c_void,
    frame: *const ffi::WasmEdge_CallingFrameContext,
    arguments: *const ffi::WasmEdge_Value,
    result: *mut ffi::WasmEdge_Value,
) -> ffi::WasmEdge_Result {
    // SAFETY: `link` has told WasmEdge of imports that live as long as the instance, and so does the state, which nobody else uses while the
    // guest waits for the answer. There are as many arguments as the function was added with, and room for one result. The memory, if there
    // is one, has as many pages as it says, and is not shared, for such modules are refused.
    unsafe {
        let import = &*import.cast::<Import>();
        let values = import.parameters.chars().enumerate().map(|(index, letter)| match letter {
            'I' => ffi::WasmEdge_ValueGetI64(*arguments.add(index)).cast_unsigned(),
            _ => ffi::WasmEdge_ValueGetI32(*arguments.add(index)).cast_unsigned().into(),
        });
        let values: Vec<u64> = values.collect();
        let memory = ffi::WasmEdge_CallingFrameGetMemoryInstance(frame, 0);
        let memory: &mut [u8] = if memory.is_null() {
            &mut []
        } else {
            let size = ffi::WasmEdge_MemoryInstanceGetPageSize(memory) * PAGE;
            let bytes = ffi::WasmEdge_MemoryInstanceGetPointer(memory, 0, size);
            match usize::try_from(size) {
                Ok(size) if !bytes.is_null() => slice::from_raw_parts_mut(bytes, size),
                _ => &mut [],
            }
        };
        *result = ffi::WasmEdge_ValueGenI32((*import.state).wasi.call(import.call, memory, &values));
    }
    ffi::WasmEdge_Result { Code: ffi::WasmEdge_ErrCode_Success }
}

/// WASI's `proc_exit`.
unsafe extern "C" fn exit(
    state: *mut c_void,
    _: *const ffi::WasmEdge_CallingFrameContext,
    arguments: *const ffi::WasmEdge_Value,
    _: *mut ffi::WasmEdge_Value,
) -> ffi::WasmEdge_Result {
    // SAFETY: `link` has told WasmEdge of a state that lives as long as the instance, and the function was added with one argument.
    unsafe { (*state.cast::<State>()).code = ffi::WasmEdge_ValueGetI32(*arguments).cast_unsigned() };
    ffi::WasmEdge_Result { Code: ffi::WasmEdge_ErrCode_Terminated }
}

/// Calls the functions that are to be called. Here WasmEdge is ready for faults, and stays so while it calls them.
unsafe extern "C" fn hold(
    calls: *mut c_void,
    _: *const ffi::WasmEdge_CallingFrameContext,
    _: *const ffi::WasmEdge_Value,
    _: *mut ffi::WasmEdge_Value,
) -> ffi::WasmEdge_Result {
    // SAFETY: `link` has told WasmEdge of calls that live as long as the instance, and nobody else uses them meanwhile.
    let calls = unsafe { &mut *calls.cast::<Calls>() };
    let result = stack::watch().map_err(|error| format!("signals: {error}")).map(|()| {
        let mut result = ffi::WasmEdge_Result { Code: ffi::WasmEdge_ErrCode_Success };
        for function in &calls.functions {
            // SAFETY: the function is the guest's, it has no parameters, and no room is offered for results.
            result =
                unsafe { ffi::WasmEdge_ExecutorInvoke(calls.executor, *function, ptr::null(), 0, ptr::null_mut(), 0) };
            if result.Code != ffi::WasmEdge_ErrCode_Success {
                break;
            }
        }
        result
    });
    calls.result = Some(result);
    ffi::WasmEdge_Result { Code: ffi::WasmEdge_ErrCode_Success }
}

/// Lends a text to WasmEdge for one call.
fn string(text: &str) -> ffi::WasmEdge_String {
    // SAFETY: it is a pointer and a length, which belong together.
    unsafe { ffi::WasmEdge_StringWrap(text.as_ptr().cast(), u32::try_from(text.len()).unwrap_or(u32::MAX)) }
}
