//! The few calls of WAMR's C interface, made safe: one module, in a process of its own, from loading to its end.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use wamrx_sys as wamr;

/// Room for what WAMR says went wrong.
const MESSAGE: usize = 256;
/// What WAMR calls the exception by which a guest exits.
const EXIT: &str = "wasi proc exit";
/// What it says when a guest's calls have used up its stack.
const OVERFLOW: &str = "wasm operand stack overflow";
/// What every exception begins with.
const EXCEPTION: &str = "Exception: ";

/// What a guest is started with.
pub(super) struct Settings {
    pub(super) args: Vec<CString>,
    pub(super) env: Vec<CString>,
    /// `guest::host` each.
    pub(super) folders: Vec<CString>,
    /// Bytes.
    pub(super) stack: u32,
    /// The most pages that a linear memory may have.
    pub(super) pages: Option<u32>,
}

/// How it ended.
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

/// Returns the version of WAMR.
#[cfg(test)]
pub(super) fn version() -> String {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: each pointer is to a number that lives through the call.
    unsafe { wamr::wasm_runtime_get_version(&mut major, &mut minor, &mut patch) };
    format!("{major}.{minor}.{patch}")
}

/// The runtime, from its beginning to its end. There is at most one: the process runs one guest.
struct Runtime;

impl Runtime {
    fn start() -> Option<Self> {
        let mut args =
            wamr::RuntimeInitArgs { mem_alloc_type: wamr::Alloc_With_System_Allocator, ..Default::default() };
        // SAFETY: the arguments live through the call, which copies what it keeps; the allocator is the process's own.
        let started = unsafe { wamr::wasm_runtime_full_init(&mut args) };
        if !started {
            return None;
        }
        // SAFETY: the runtime has been started. WAMR's own messages would go to the guest's standard output.
        unsafe { wamr::wasm_runtime_set_log_level(wamr::WASM_LOG_LEVEL_FATAL) };
        Some(Self)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // SAFETY: it was started, and all that was made with it is gone: the values borrow it.
        unsafe { wamr::wasm_runtime_destroy() };
    }
}

/// A loaded module, with the bytes that it refers to.
struct Module<'a> {
    module: wamr::wasm_module_t,
    _bytes: Vec<u8>,
    _runtime: &'a Runtime,
}

impl<'a> Module<'a> {
    fn load(runtime: &'a Runtime, mut bytes: Vec<u8>) -> Result<Self, String> {
        let size = u32::try_from(bytes.len()).map_err(|_| "the module is too large".to_owned())?;
        let mut message = [0; MESSAGE];
        // SAFETY: the buffer has that size, may be written to, and is kept, unmoved, as long as the module.
        let module = unsafe { wamr::wasm_runtime_load(bytes.as_mut_ptr(), size, message.as_mut_ptr(), MESSAGE as u32) };
        if module.is_null() { Err(read(&message)) } else { Ok(Self { module, _bytes: bytes, _runtime: runtime }) }
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
    _module: &'a Module<'a>,
}

impl<'a> Instance<'a> {
    fn make(module: &'a Module<'a>, settings: &Settings) -> Result<Self, String> {
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
            return Err(read(&message));
        }
        // SAFETY: the instance has just been made.
        let environment = unsafe { wamr::wasm_runtime_create_exec_env(instance, settings.stack) };
        if environment.is_null() {
            // SAFETY: the instance has just been made, and nobody else knows it.
            unsafe { wamr::wasm_runtime_deinstantiate(instance) };
            return Err("there is no memory for its stack".to_owned());
        }
        Ok(Self { instance, environment, _module: module })
    }

    /// Calls an export without parameters; `None` if it returned.
    fn call(&self, name: &str, results: usize) -> Option<Ended> {
        let Ok(text) = CString::new(name) else { return Some(Ended::NotStarted(format!("export {name:?} has a NUL"))) };
        // SAFETY: the instance lives, and so does the name through the call.
        let function = unsafe { wamr::wasm_runtime_lookup_function(self.instance, text.as_ptr()) };
        if function.is_null() {
            return Some(Ended::NotStarted(format!("export {name:?} is gone")));
        }
        // No value of the formats that are taken needs more than two cells.
        let mut cells = vec![0_u32; results * 2];
        // SAFETY: instance and state belong together, the function is the instance's, it has no parameters, and the cells
        // have room for its results.
        let returned = unsafe { wamr::wasm_runtime_call_wasm(self.environment, function, 0, cells.as_mut_ptr()) };
        if returned {
            return None;
        }
        // SAFETY: the instance lives; the text is read before anything else can change it.
        let exception = unsafe {
            let exception = wamr::wasm_runtime_get_exception(self.instance);
            if exception.is_null() { String::new() } else { CStr::from_ptr(exception).to_string_lossy().into_owned() }
        };
        let reason = exception.strip_prefix(EXCEPTION).unwrap_or(&exception);
        Some(if reason == EXIT {
            // SAFETY: the instance lives.
            Ended::Exited(unsafe { wamr::wasm_runtime_get_wasi_exit_code(self.instance) })
        } else {
            let reason = if reason == OVERFLOW { "call stack exhausted" } else { reason };
            Ended::Trapped(format!("wasm trap: {reason}"))
        })
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

/// Loads a module and calls exports of it, each with the number of its results.
pub(super) fn run(bytes: Vec<u8>, settings: &Settings, calls: &[(&str, usize)]) -> Ended {
    let Some(runtime) = Runtime::start() else { return Ended::NotStarted("wamr cannot be started".to_owned()) };
    let module = match Module::load(&runtime, bytes) {
        Ok(module) => module,
        Err(reason) => return Ended::NotStarted(reason),
    };
    let instance = match Instance::make(&module, settings) {
        Ok(instance) => instance,
        Err(reason) => return Ended::NotStarted(reason),
    };
    calls.iter().find_map(|(name, results)| instance.call(name, *results)).unwrap_or(Ended::Returned)
}

fn read(message: &[c_char; MESSAGE]) -> String {
    let bytes: Vec<u8> = message.iter().map(|byte| byte.to_le_bytes()[0]).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
