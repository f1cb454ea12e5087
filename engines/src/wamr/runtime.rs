//! The few calls of WAMR's C interface, made safe: one module, in a process of its own, from loading to its end.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::fs::File;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use wamrx_sys as wamr;

use super::paths;
use super::rights::{self, Descriptors};
use crate::working::Working;

/// Room for what WAMR says went wrong.
const MESSAGE: usize = 256;
/// The exception by which a guest exits.
const EXIT: &CStr = c"guest exits";
/// What WAMR says when a guest's calls have used up its stack.
const OVERFLOW: &str = "wasm operand stack overflow";
/// What every exception begins with.
const EXCEPTION: &str = "Exception: ";
/// The first descriptor that is a folder.
const FOLDERS: i32 = 3;

/// What a guest is started with.
pub(super) struct Settings {
    pub(super) args: Vec<CString>,
    pub(super) env: Vec<CString>,
    /// `guest::host` each.
    pub(super) folders: Vec<CString>,
    /// Each folder, open, and whether nothing in it can be changed.
    pub(super) opened: Vec<(File, bool)>,
    /// The guest has all of the process's root.
    pub(super) has_root: bool,
    /// Where paths lead that may start in either of two folders.
    pub(super) working: Cell<Option<Working>>,
    /// Bytes.
    pub(super) stack: u32,
    /// The most pages that the linear memory may have; never 0.
    pub(super) pages: Option<u32>,
}

/// A function to be called: an export without parameters.
pub(super) struct Call<'a> {
    pub(super) name: &'a str,
    /// How many results it has.
    pub(super) results: usize,
}

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

/// Loads a module and calls functions of it, one after the other until one does not return. `bytes` are WAMR's to change,
/// and are released when it has translated them.
pub(super) fn run(bytes: Vec<u8>, settings: &Settings, calls: &[Call<'_>]) -> Ended {
    let run = || {
        let runtime = Runtime::start()?;
        let module = Module::load(&runtime, bytes)?;
        let instance = Instance::make(&module, settings)?;
        calls.iter().try_for_each(|call| instance.call(call))
    };
    run().err().unwrap_or(Ended::Returned)
}

/// Returns the version of WAMR.
#[cfg(test)]
pub(super) fn version() -> String {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: each pointer is to a number that lives through the call.
    unsafe { wamr::wasm_runtime_get_version(&mut major, &mut minor, &mut patch) };
    format!("{major}.{minor}.{patch}")
}

/// The runtime, from its beginning to its end. There is at most one at a time: the process runs one guest.
struct Runtime {
    /// What the guest exits with.
    code: Box<AtomicU32>,
    /// Functions that take the place of WAMR's own. WAMR keeps the pointer, and sorts them.
    _functions: Box<[wamr::NativeSymbol]>,
}

impl Runtime {
    fn start() -> Result<Self, Ended> {
        let mut args =
            wamr::RuntimeInitArgs { mem_alloc_type: wamr::Alloc_With_System_Allocator, ..Default::default() };
        // SAFETY: the arguments live through the call, which copies what it keeps; the allocator is the process's own.
        if !unsafe { wamr::wasm_runtime_full_init(&mut args) } {
            return Err(Ended::NotStarted("wamr cannot be started".to_owned()));
        }
        // SAFETY: the runtime has been started. WAMR's own messages would go to the guest's standard output.
        unsafe { wamr::wasm_runtime_set_log_level(wamr::WASM_LOG_LEVEL_FATAL) };
        let code = Box::new(AtomicU32::new(0));
        let others = [
            wamr::NativeSymbol {
                symbol: c"path_open".as_ptr(),
                func_ptr: rights::path_open as *mut c_void,
                signature: rights::PATH_OPEN.as_ptr(),
                attachment: ptr::null_mut(),
            },
            wamr::NativeSymbol {
                symbol: c"proc_exit".as_ptr(),
                func_ptr: proc_exit as *mut c_void,
                signature: c"(i)".as_ptr(),
                attachment: (&raw const *code).cast_mut().cast(),
            },
        ];
        let mut functions: Box<[_]> = others.into_iter().chain(paths::functions()).collect();
        let count = u32::try_from(functions.len()).unwrap_or(0);
        // SAFETY: names and signatures are constants; the list is in a box of its own, which is dropped after the runtime.
        // What is registered last is found first.
        let registered = unsafe {
            wamr::wasm_runtime_register_natives(c"wasi_snapshot_preview1".as_ptr(), functions.as_mut_ptr(), count)
        };
        let runtime = Self { code, _functions: functions };
        if registered { Ok(runtime) } else { Err(Ended::NotStarted("wamr takes no functions".to_owned())) }
    }

    /// Tells the end of a guest by what WAMR says of it; `None` if that is no exception.
    fn end(&self, message: &str) -> Option<Ended> {
        let (_, reason) = message.split_once(EXCEPTION)?;
        Some(if reason.as_bytes() == EXIT.to_bytes() {
            Ended::Exited(self.code.load(Ordering::Relaxed))
        } else {
            let reason = if reason == OVERFLOW { "call stack exhausted" } else { reason };
            Ended::Trapped(format!("wasm trap: {reason}"))
        })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // SAFETY: it was started, and all that was made with it is gone: the values borrow it.
        unsafe { wamr::wasm_runtime_destroy() };
    }
}

/// WASI's `proc_exit`. WAMR's own keeps the code in the instance, which is gone if the guest exits while it is being made.
unsafe extern "C" fn proc_exit(environment: wamr::wasm_exec_env_t, code: u32) {
    // SAFETY: WAMR calls this with the state of the instance that runs; what is attached to this function is a number that
    // lives as long as the runtime.
    unsafe {
        let attached = wamr::wasm_runtime_get_function_attachment(environment).cast::<AtomicU32>();
        (*attached).store(code, Ordering::Relaxed);
        wamr::wasm_runtime_set_exception(wamr::wasm_runtime_get_module_inst(environment), EXIT.as_ptr());
    }
}

/// A loaded module, with the bytes that it refers to, if any.
struct Module<'a> {
    module: wamr::wasm_module_t,
    _bytes: Option<Vec<u8>>,
    runtime: &'a Runtime,
}

impl<'a> Module<'a> {
    fn load(runtime: &'a Runtime, mut bytes: Vec<u8>) -> Result<Self, Ended> {
        let size = u32::try_from(bytes.len()).map_err(|_| Ended::NotStarted("the module is too large".to_owned()))?;
        let mut name = [0; 1];
        let args = wamr::LoadArgs { name: name.as_mut_ptr(), wasm_binary_freeable: true, ..Default::default() };
        let mut message = [0; MESSAGE];
        // SAFETY: the buffer has that size, may be written to, and is kept, unmoved, as long as WAMR refers to it; the other
        // pointers are to values that live through the call.
        let module = unsafe {
            wamr::wasm_runtime_load_ex(bytes.as_mut_ptr(), size, &args, message.as_mut_ptr(), MESSAGE as u32)
        };
        if module.is_null() {
            return Err(Ended::NotStarted(read(&message)));
        }
        // SAFETY: the module has just been loaded.
        let translated = unsafe { wamr::wasm_runtime_is_underlying_binary_freeable(module) };
        Ok(Self { module, _bytes: (!translated).then_some(bytes), runtime })
    }
}

impl Drop for Module<'_> {
    fn drop(&mut self) {
        // SAFETY: it was loaded, and no instance of it is left: instances borrow it.
        unsafe { wamr::wasm_runtime_unload(self.module) };
    }
}

/// An instance and a thread's state for it.
struct Instance<'a> {
    instance: wamr::wasm_module_inst_t,
    environment: wamr::wasm_exec_env_t,
    runtime: &'a Runtime,
}

impl<'a> Instance<'a> {
    /// Makes an instance, and runs the module's start function.
    fn make(module: &'a Module<'a>, settings: &Settings) -> Result<Self, Ended> {
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<*const c_char>>();
        let count = |texts: &[CString]| u32::try_from(texts.len()).unwrap_or(u32::MAX);
        let (mut folders, mut env) = (pointers(&settings.folders), pointers(&settings.env));
        let mut args: Vec<*mut c_char> = settings.args.iter().map(|text| text.as_ptr().cast_mut()).collect();
        // SAFETY: the lists have the lengths that are given, and WAMR reads them when it makes the instance, below; the
        // texts live longer. It changes none of them.
        unsafe {
            wamr::wasm_runtime_set_wasi_args_ex(
                module.module,
                ptr::null_mut(),
                0,
                folders.as_mut_ptr(),
                count(&settings.folders),
                env.as_mut_ptr(),
                count(&settings.env),
                args.as_mut_ptr(),
                i32::try_from(args.len()).unwrap_or(i32::MAX),
                0,
                1,
                2,
            );
        }
        let arguments = wamr::InstantiationArgs {
            default_stack_size: settings.stack,
            host_managed_heap_size: 0,
            max_memory_pages: settings.pages.unwrap_or(0),
        };
        let mut message = [0; MESSAGE];
        // SAFETY: the module is loaded, and all other pointers are to values that live through the call.
        let instance = unsafe {
            wamr::wasm_runtime_instantiate_ex(module.module, &arguments, message.as_mut_ptr(), MESSAGE as u32)
        };
        if instance.is_null() {
            let message = read(&message);
            return Err(module.runtime.end(&message).unwrap_or(Ended::NotStarted(message)));
        }
        // SAFETY: the instance has just been made.
        let environment = unsafe { wamr::wasm_runtime_create_exec_env(instance, settings.stack) };
        if environment.is_null() {
            // SAFETY: the instance has just been made, and nobody else knows it.
            unsafe { wamr::wasm_runtime_deinstantiate(instance) };
            return Err(Ended::NotStarted("there is no memory for its stack".to_owned()));
        }
        let instance = Self { instance, environment, runtime: module.runtime };
        instance.make_read_only(&settings.opened)?;
        instance.give_root(settings)?;
        Ok(instance)
    }

    /// Lets paths lead anywhere in the process's root, if the guest has all of it.
    fn give_root(&self, settings: &Settings) -> Result<(), Ended> {
        // SAFETY: the state is this instance's, and lives as long.
        let descriptors = unsafe { Descriptors::of(self.environment) };
        match (descriptors, settings.opened.first()) {
            (Some(descriptors), Some((own, _))) if settings.has_root => {
                let has = paths::give_root(descriptors, FOLDERS, own, settings.working.take());
                has.then_some(()).ok_or_else(|| Ended::NotStarted("wamr keeps its folders in another way".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn make_read_only(&self, folders: &[(File, bool)]) -> Result<(), Ended> {
        // SAFETY: the state is this instance's, and lives as long.
        let Some(descriptors) = (unsafe { Descriptors::of(self.environment) }) else { return Ok(()) };
        for (fd, (_, read_only)) in (FOLDERS..).zip(folders) {
            if *read_only && let Err(error) = descriptors.make_read_only(fd) {
                let reason = format!("wamr cannot make descriptor {fd} read-only (WASI error {error})");
                return Err(Ended::NotStarted(reason));
            }
        }
        Ok(())
    }

    fn call(&self, call: &Call<'_>) -> Result<(), Ended> {
        let gone = || Ended::NotStarted(format!("export {:?} is gone", call.name));
        let name = CString::new(call.name).map_err(|_| gone())?;
        // SAFETY: the instance lives, and so does the name through the call.
        let function = unsafe { wamr::wasm_runtime_lookup_function(self.instance, name.as_ptr()) };
        if function.is_null() {
            return Err(gone());
        }
        // No value of the formats that are taken needs more than two cells.
        let mut cells = vec![0_u32; call.results * 2];
        // SAFETY: instance and state belong together, the function is the instance's, it has no parameters, and the cells
        // have room for its results.
        let returned = unsafe { wamr::wasm_runtime_call_wasm(self.environment, function, 0, cells.as_mut_ptr()) };
        if returned {
            return Ok(());
        }
        // SAFETY: the instance lives; the text is read before anything else can change it.
        let exception = unsafe {
            let exception = wamr::wasm_runtime_get_exception(self.instance);
            if exception.is_null() { String::new() } else { CStr::from_ptr(exception).to_string_lossy().into_owned() }
        };
        Err(self.runtime.end(&exception).unwrap_or(Ended::Trapped(format!("wasm trap: {exception}"))))
    }
}

impl Drop for Instance<'_> {
    fn drop(&mut self) {
        // SAFETY: both were made by `make`, and are used nowhere else.
        unsafe {
            wamr::wasm_runtime_destroy_exec_env(self.environment);
            wamr::wasm_runtime_deinstantiate(self.instance);
        }
    }
}

fn read(message: &[c_char; MESSAGE]) -> String {
    let bytes: Vec<u8> = message.iter().map(|byte| byte.to_le_bytes()[0]).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
