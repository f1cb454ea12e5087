//! The calls of WasmEdge's C interface that run a module, made safe: one instance, from its beginning to its end.

use std::ffi::c_void;
use std::{ptr, slice};

use wasmedge_sys::ffi;

use super::library::{Configuration, Module, said};
use super::{rewrite, stack};
use crate::end::End;
use crate::preview1;
use crate::wasi::{self, Call, Wasi};

/// Size of a page of memory, in bytes.
const PAGE: u64 = 64 << 10;

/// The settings of a guest.
pub(super) struct Settings {
    pub(super) configuration: Configuration,
    /// The guest's fuel.
    pub(super) fuel: Option<u64>,
}

// SAFETY: a configuration is only read once the settings are made.
unsafe impl Sync for Settings {}

/// Calls exported functions without parameters, one after the other, until one does not return. The caller must be on a
/// thread that [`stack::run`] has started.
pub(super) fn run(module: &Module, settings: &Settings, wasi: Wasi, calls: &[&str]) -> End {
    let instance = match Instance::make(module, settings, wasi) {
        Ok(instance) => instance,
        Err(reason) => return End::NotStarted(reason),
    };
    match instance.call(calls) {
        Ok(result) => instance.end(result),
        Err(reason) => End::NotStarted(reason),
    }
}

/// All objects of one run. Dropping it releases them in the order of their dependencies.
#[derive(Debug)]
struct Instance {
    statistics: *mut ffi::WasmEdge_StatisticsContext,
    executor: *mut ffi::WasmEdge_ExecutorContext,
    store: *mut ffi::WasmEdge_StoreContext,
    wasi: *mut ffi::WasmEdge_ModuleInstanceContext,
    own: *mut ffi::WasmEdge_ModuleInstanceContext,
    guest: *mut ffi::WasmEdge_ModuleInstanceContext,
    /// The data of [`hold`].
    calls: Box<Calls>,
    /// The state that [`answer`] and [`exit`] use.
    state: *mut State,
    /// The data of [`answer`], for each function.
    functions: Box<[Import]>,
}

/// Functions for [`hold`] to call, and the result of the last one.
#[derive(Debug)]
struct Calls {
    executor: *mut ffi::WasmEdge_ExecutorContext,
    functions: Vec<*mut ffi::WasmEdge_FunctionInstanceContext>,
    result: Option<Result<ffi::WasmEdge_Result, String>>,
}

/// A guest's WASI state, and its exit code.
#[derive(Debug)]
struct State {
    wasi: Wasi,
    code: u32,
}

/// A function of WASI.
#[derive(Debug)]
struct Import {
    name: &'static str,
    call: Call,
    parameters: &'static str,
    state: *mut State,
}

impl Instance {
    fn make(module: &Module, settings: &Settings, wasi: Wasi) -> Result<Self, String> {
        // SAFETY: the configuration lives, and WasmEdge copies it. All objects made here belong to the value.
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
            return Err("WasmEdge cannot allocate its objects".to_owned());
        }
        instance.link(settings.fuel)?;
        // SAFETY: all these objects were made, the module is loaded, and its import is there.
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
        // SAFETY: all these objects were made.
        unsafe {
            said(ffi::WasmEdge_ExecutorRegisterImport(self.executor, self.store, self.wasi))?;
            said(ffi::WasmEdge_ExecutorRegisterImport(self.executor, self.store, self.own))
        }
    }

    /// Calls functions from within the export that calls [`hold`].
    fn call(&self, calls: &[&str]) -> Result<ffi::WasmEdge_Result, String> {
        let find = |name: &str| {
            // SAFETY: the instance and the name live through the call.
            let function = unsafe { ffi::WasmEdge_ModuleInstanceFindFunction(self.guest, string(name)) };
            if function.is_null() { Err(format!("export {name:?} is gone")) } else { Ok(function) }
        };
        let functions = calls.iter().map(|name| find(name)).collect::<Result<Vec<_>, _>>()?;
        let hold = find(rewrite::HOLD)?;
        let calls = (&raw const *self.calls).cast_mut();
        // SAFETY: no other code uses the calls before the function has returned. The function has no parameters and no
        // results.
        unsafe {
            (*calls).functions = functions;
            let held = ffi::WasmEdge_ExecutorInvoke(self.executor, hold, ptr::null(), 0, ptr::null_mut(), 0);
            // When all fuel is consumed, there is none for the function that holds either.
            (*calls).result.take().unwrap_or_else(|| said(held).and(Err("wasmedge has called nothing".to_owned())))
        }
    }

    fn end(&self, result: ffi::WasmEdge_Result) -> End {
        // SAFETY: the code is a part of the result. The state lives, and no function uses it any more.
        let (code, exit) = unsafe { (ffi::WasmEdge_ResultGetCode(result), (*self.state).code) };
        match said(result) {
            Ok(()) if code == ffi::WasmEdge_ErrCode_Terminated => End::Exited(exit),
            Ok(()) => End::Exited(0),
            Err(_) if code == ffi::WasmEdge_ErrCode_CostLimitExceeded => {
                End::Trapped("all fuel consumed by WebAssembly".to_owned())
            }
            Err(reason) => End::Trapped(reason),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: `make` made all these objects, or left a null, which is allowed. No code uses them any more. The
        // state comes from a box.
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

/// Adds a function to a module. Its parameters and results have the notation of [`preview1::FUNCTIONS`]; WasmEdge
/// passes `told` to it.
fn offer(
    module: *mut ffi::WasmEdge_ModuleInstanceContext,
    name: &str,
    (parameters, results): (&str, &str),
    function: HostFunction,
    told: *mut c_void,
) -> Result<(), String> {
    let types = |letters: &str| -> Vec<ffi::WasmEdge_ValType> {
        // SAFETY: the call only makes a number.
        let ty = |letter| unsafe {
            if letter == 'I' { ffi::WasmEdge_ValTypeGenI64() } else { ffi::WasmEdge_ValTypeGenI32() }
        };
        letters.chars().map(ty).collect()
    };
    let (parameters, results) = (types(parameters), types(results));
    let count = |types: &[ffi::WasmEdge_ValType]| u32::try_from(types.len()).unwrap_or(u32::MAX);
    // SAFETY: the lists have the given lengths. The type is released when the function has copied it, and the function
    // then belongs to the module. The data at `told` lives as long as the instance that owns the module.
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
            return Err("WasmEdge cannot allocate its objects".to_owned());
        }
        ffi::WasmEdge_ModuleInstanceAddFunction(module, string(name), function);
    }
    Ok(())
}

/// Calls a function of WASI for the guest.
unsafe extern "C" fn answer(
    import: *mut c_void,
    frame: *const ffi::WasmEdge_CallingFrameContext,
    arguments: *const ffi::WasmEdge_Value,
    result: *mut ffi::WasmEdge_Value,
) -> ffi::WasmEdge_Result {
    if !stack::has_room() {
        return ffi::WasmEdge_Result { Code: ffi::WasmEdge_ErrCode_HostFuncError };
    }
    // SAFETY: `link` has given WasmEdge imports that live as long as the instance. The state lives as long, and no
    // other code uses it while the guest waits for the answer. There are as many arguments as the function was added
    // with, and room for one result. The memory, if there is one, has as many pages as it says. It is not shared,
    // because the engine refuses such modules.
    unsafe {
        let import = &*import.cast::<Import>();
        let values = import.parameters.chars().enumerate().map(|(index, letter)| match letter {
            'I' => ffi::WasmEdge_ValueGetI64(*arguments.add(index)).cast_unsigned(),
            _ => ffi::WasmEdge_ValueGetI32(*arguments.add(index)).cast_unsigned().into(),
        });
        let values: Vec<u64> = values.collect();
        let module = ffi::WasmEdge_CallingFrameGetModuleInstance(frame);
        // WASI works on the memory with this name, which need not be the first.
        let memory = ffi::WasmEdge_ModuleInstanceFindMemory(module, string("memory"));
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

/// Ends the guest: WASI's `proc_exit`.
unsafe extern "C" fn exit(
    state: *mut c_void,
    _: *const ffi::WasmEdge_CallingFrameContext,
    arguments: *const ffi::WasmEdge_Value,
    _: *mut ffi::WasmEdge_Value,
) -> ffi::WasmEdge_Result {
    // SAFETY: `link` has given WasmEdge a state that lives as long as the instance. The function was added with one
    // argument.
    unsafe { (*state.cast::<State>()).code = ffi::WasmEdge_ValueGetI32(*arguments).cast_unsigned() };
    ffi::WasmEdge_Result { Code: ffi::WasmEdge_ErrCode_Terminated }
}

/// Calls the functions in [`Calls`]. Here WasmEdge is ready for faults, and stays so during the calls.
unsafe extern "C" fn hold(
    calls: *mut c_void,
    _: *const ffi::WasmEdge_CallingFrameContext,
    _: *const ffi::WasmEdge_Value,
    _: *mut ffi::WasmEdge_Value,
) -> ffi::WasmEdge_Result {
    // SAFETY: `link` has given WasmEdge calls that live as long as the instance, and no other code uses them meanwhile.
    let calls = unsafe { &mut *calls.cast::<Calls>() };
    let result = stack::watch().map_err(|error| format!("cannot unblock signals: {error}")).map(|()| {
        let mut result = ffi::WasmEdge_Result { Code: ffi::WasmEdge_ErrCode_Success };
        for function in &calls.functions {
            // SAFETY: the function belongs to the guest and has no parameters, and the call offers no room for results.
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
    // SAFETY: the pointer and the length belong together.
    unsafe { ffi::WasmEdge_StringWrap(text.as_ptr().cast(), u32::try_from(text.len()).unwrap_or(u32::MAX)) }
}
