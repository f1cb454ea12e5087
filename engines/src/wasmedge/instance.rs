//! The calls of WasmEdge's C interface that run a module, made safe: one instance, from its beginning to its end.

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::BorrowedFd;
use std::ptr;

use wasmedge_sys::ffi;

use super::library::{Configuration, Module, said};
use super::{rewrite, stack};
use crate::rights::{CHANGE, Rights};
use crate::texts::Texts;

/// All that WASI lets a guest do, and what of it concerns a folder itself.
const ALL: Rights = 0x1fff_ffff;
const OF_FOLDERS: Rights = 0x07bf_fe00;
/// The first descriptor that is a folder.
const FOLDERS: i32 = 3;

/// What a guest is started with.
pub(super) struct Settings {
    pub(super) configuration: Configuration,
    pub(super) texts: Texts,
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
pub(super) fn run(module: &Module, settings: &Settings, calls: &[&str]) -> Ended {
    let instance = match Instance::make(module, settings) {
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
}

/// Functions to be called by [`hold`], and how the last one ended.
#[derive(Debug)]
struct Calls {
    executor: *mut ffi::WasmEdge_ExecutorContext,
    functions: Vec<*mut ffi::WasmEdge_FunctionInstanceContext>,
    result: Option<Result<ffi::WasmEdge_Result, String>>,
}

impl Instance {
    fn make(module: &Module, settings: &Settings) -> Result<Self, String> {
        let Texts { args, env, folders, .. } = &settings.texts;
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<*const c_char>>();
        let count = |texts: &[CString]| u32::try_from(texts.len()).unwrap_or(u32::MAX);
        let configuration = settings.configuration.as_ptr();
        // SAFETY: the lists have the lengths that are given, and WasmEdge copies what is in them; the configuration lives,
        // and is copied, too. What is made belongs to the value.
        let mut instance = unsafe {
            let statistics = ffi::WasmEdge_StatisticsCreate();
            let executor = ffi::WasmEdge_ExecutorCreate(configuration, statistics);
            Self {
                statistics,
                executor,
                store: ffi::WasmEdge_StoreCreate(),
                wasi: ffi::WasmEdge_ModuleInstanceCreateWASI(
                    pointers(args).as_ptr(),
                    count(args),
                    pointers(env).as_ptr(),
                    count(env),
                    pointers(folders).as_ptr(),
                    count(folders),
                ),
                own: ffi::WasmEdge_ModuleInstanceCreate(string(rewrite::MODULE)),
                guest: ptr::null_mut(),
                calls: Box::new(Calls { executor, functions: Vec::new(), result: None }),
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
        instance.check_folders(&settings.texts)?;
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
        // SAFETY: all of it was made; the type is released when the function has copied it, and the function belongs to the
        // module then. `hold` is told of calls that live in a box as long as the instance.
        unsafe {
            if let Some(fuel) = fuel {
                ffi::WasmEdge_StatisticsSetCostLimit(self.statistics, fuel);
            }
            let ty = ffi::WasmEdge_FunctionTypeCreate(ptr::null(), 0, ptr::null(), 0);
            let calls = (&raw mut *self.calls).cast();
            let function = ffi::WasmEdge_FunctionInstanceCreate(ty, Some(hold), calls, 0);
            ffi::WasmEdge_FunctionTypeDelete(ty);
            if function.is_null() {
                return Err("wasmedge has no memory".to_owned());
            }
            ffi::WasmEdge_ModuleInstanceAddFunction(self.own, string(rewrite::HOLD), function);
            said(ffi::WasmEdge_ExecutorRegisterImport(self.executor, self.store, self.wasi))?;
            said(ffi::WasmEdge_ExecutorRegisterImport(self.executor, self.store, self.own))
        }
    }

    /// Checks that each folder has the descriptor that it must have, and takes from those that cannot be changed the rights
    /// to do so. WasmEdge's own `readonly` leaves the right to get them back by opening the folder once more.
    fn check_folders(&self, texts: &Texts) -> Result<(), String> {
        for (fd, (file, read_only)) in (FOLDERS..).zip(&texts.opened) {
            let mut descriptor = 0;
            // SAFETY: the module is WASI's, and the number lives through the call.
            let error = unsafe { ffi::WasmEdge_ModuleInstanceWASIGetNativeHandler(self.wasi, fd, &mut descriptor) };
            let same = (error == 0).then(|| c_int::try_from(descriptor).ok()).flatten().and_then(|descriptor| {
                // SAFETY: WASI keeps the folder open as long as its module lives.
                let given = rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(descriptor) }).ok()?;
                let wanted = rustix::fs::fstat(file).ok()?;
                Some((given.st_dev, given.st_ino) == (wanted.st_dev, wanted.st_ino))
            });
            if same != Some(true) {
                return Err(format!("wasmedge has not opened folder {fd} of the guest"));
            }
            if *read_only {
                self.make_read_only(fd)?;
            }
        }
        Ok(())
    }

    fn make_read_only(&self, fd: i32) -> Result<(), String> {
        let rights = [ALL & OF_FOLDERS & !CHANGE, ALL & !CHANGE].map(Rights::cast_signed);
        // SAFETY: the function is WASI's own, which takes these three parameters and has one result, a number of 32 bits.
        let (result, error) = unsafe {
            let function = ffi::WasmEdge_ModuleInstanceFindFunction(self.wasi, string("fd_fdstat_set_rights"));
            if function.is_null() {
                return Err("wasmedge cannot make a folder read-only".to_owned());
            }
            let parameters = [
                ffi::WasmEdge_ValueGenI32(fd),
                ffi::WasmEdge_ValueGenI64(rights[0]),
                ffi::WasmEdge_ValueGenI64(rights[1]),
            ];
            let mut error = ffi::WasmEdge_ValueGenI32(-1);
            let result = ffi::WasmEdge_ExecutorInvoke(self.executor, function, parameters.as_ptr(), 3, &mut error, 1);
            (result, ffi::WasmEdge_ValueGetI32(error))
        };
        said(result)?;
        if error == 0 {
            Ok(())
        } else {
            Err(format!("wasmedge cannot make folder {fd} read-only (WASI error {error})"))
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
        // SAFETY: the code is a part of the result; WASI lives.
        let (code, exit) =
            unsafe { (ffi::WasmEdge_ResultGetCode(result), ffi::WasmEdge_ModuleInstanceWASIGetExitCode(self.wasi)) };
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
        // SAFETY: all of it was made by `make` (what was not is null, which is fine), and nothing of it is used any more.
        unsafe {
            ffi::WasmEdge_ModuleInstanceDelete(self.guest);
            ffi::WasmEdge_StoreDelete(self.store);
            ffi::WasmEdge_ModuleInstanceDelete(self.own);
            ffi::WasmEdge_ModuleInstanceDelete(self.wasi);
            ffi::WasmEdge_ExecutorDelete(self.executor);
            ffi::WasmEdge_StatisticsDelete(self.statistics);
        }
    }
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
