//! The few calls of WAMR's C interface, made safe: one module, in a process of its own, from loading to its end.

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::slice;

use wamrx_sys as wamr;

use crate::wasi::{self, Call, Wasi};

/// Room for what WAMR says went wrong.
const MESSAGE: usize = 256;
/// Name of the module that functions of WASI are imported from.
const MODULE: &CStr = c"wasi_snapshot_preview1";
/// The exception by which a guest exits.
const EXIT: &CStr = c"guest exits";
/// What WAMR says when a guest's calls have used up its stack.
const OVERFLOW: &str = "wasm operand stack overflow";
/// What every exception begins with.
const EXCEPTION: &str = "Exception: ";

/// What a guest is started with.
pub(super) struct Settings {
    /// Bytes.
    pub(super) stack: u32,
    /// The most pages that the linear memory may have; never 0.
    pub(super) pages: Option<u32>,
}

/// A function to be called: an export without parameters.
pub(super) struct Export<'a> {
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
pub(super) fn run(bytes: Vec<u8>, settings: &Settings, wasi: Wasi, calls: &[Export<'_>]) -> Ended {
    let run = move || {
        let runtime = Runtime::start(wasi)?;
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
    /// What functions of WASI are told.
    state: Box<UnsafeCell<State>>,
    /// What each of them is told besides.
    _imports: Box<[Import]>,
    /// The functions themselves. WAMR keeps the pointer, and sorts them.
    _functions: Box<[wamr::NativeSymbol]>,
}

/// What a guest has of WASI, and what it exits with.
struct State {
    wasi: Wasi,
    code: u32,
}

/// A function of WASI's.
struct Import {
    name: CString,
    signature: CString,
    parameters: usize,
    /// `None` for the one that ends the guest.
    call: Option<Call>,
    state: *mut State,
}

impl Runtime {
    fn start(wasi: Wasi) -> Result<Self, Ended> {
        let mut args =
            wamr::RuntimeInitArgs { mem_alloc_type: wamr::Alloc_With_System_Allocator, ..Default::default() };
        // SAFETY: the arguments live through the call, which copies what it keeps; the allocator is the process's own.
        if !unsafe { wamr::wasm_runtime_full_init(&mut args) } {
            return Err(Ended::NotStarted("wamr cannot be started".to_owned()));
        }
        // SAFETY: the runtime has been started. WAMR's own messages would go to the guest's standard output.
        unsafe { wamr::wasm_runtime_set_log_level(wamr::WASM_LOG_LEVEL_FATAL) };
        let state = Box::new(UnsafeCell::new(State { wasi, code: 0 }));
        let functions = wasi::functions().map(|(name, parameters, call)| (name, parameters, "i", Some(call)));
        let imports = functions.chain([("proc_exit", "i", "", None)]).map(|(name, parameters, result, call)| {
            let text = |text: String| CString::new(text).unwrap_or_default();
            Import {
                name: text(name.to_owned()),
                signature: text(format!("({parameters}){result}")),
                parameters: parameters.len(),
                call,
                state: state.get(),
            }
        });
        let imports: Box<[Import]> = imports.collect();
        let symbol = |import: &Import| wamr::NativeSymbol {
            symbol: import.name.as_ptr(),
            func_ptr: answer as *mut c_void,
            signature: import.signature.as_ptr(),
            attachment: (&raw const *import).cast_mut().cast(),
        };
        let mut functions: Box<[_]> = imports.iter().map(symbol).collect();
        let count = u32::try_from(functions.len()).unwrap_or(0);
        // SAFETY: the module's name is a constant; the other names, the signatures and the list are in boxes of their own, which are dropped
        // after the runtime.
        let registered =
            unsafe { wamr::wasm_runtime_register_natives_raw(MODULE.as_ptr(), functions.as_mut_ptr(), count) };
        let runtime = Self { state, _imports: imports, _functions: functions };
        if registered { Ok(runtime) } else { Err(Ended::NotStarted("wamr takes no functions".to_owned())) }
    }

    /// Returns what the guest has exited with.
    fn code(&self) -> u32 {
        // SAFETY: no function is called by the guest any more.
        unsafe { (*self.state.get()).code }
    }

    /// Tells the end of a guest by what WAMR says of it; `None` if that is no exception.
    fn end(&self, message: &str) -> Option<Ended> {
        let (_, reason) = message.split_once(EXCEPTION)?;
        Some(if reason.as_bytes() == EXIT.to_bytes() {
            Ended::Exited(self.code())
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

/// Calls a function of WASI's for the guest, or ends it. `values` are the arguments, and behind the call the result.
unsafe extern "C" fn answer(environment: wamr::wasm_exec_env_t, values: *mut u64) {
    // SAFETY: WAMR calls this with the state of the instance that runs, and with as many arguments as the function was registered with; what
    // is attached to the function lives as long as the runtime, and nobody else uses the state while the guest waits for the answer. The
    // memory, if there is one, has as many pages as it says, and is not shared, for such modules are refused.
    unsafe {
        let instance = wamr::wasm_runtime_get_module_inst(environment);
        let import = &*wamr::wasm_runtime_get_function_attachment(environment).cast::<Import>();
        let state = &mut *import.state;
        let Some(call) = import.call else {
            state.code = *values.cast::<u32>();
            wamr::wasm_runtime_set_exception(instance, EXIT.as_ptr());
            return;
        };
        let arguments = if import.parameters == 0 { &[] } else { slice::from_raw_parts(values, import.parameters) };
        let memory = wamr::wasm_runtime_get_default_memory(instance);
        let memory: &mut [u8] = if memory.is_null() {
            &mut []
        } else {
            let size = wamr::wasm_memory_get_cur_page_count(memory) * wamr::wasm_memory_get_bytes_per_page(memory);
            let bytes = wamr::wasm_memory_get_base_address(memory).cast::<u8>();
            match usize::try_from(size) {
                Ok(size) if !bytes.is_null() => slice::from_raw_parts_mut(bytes, size),
                _ => &mut [],
            }
        };
        let number = state.wasi.call(call, memory, arguments);
        values.cast::<i32>().write(number);
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
        Ok(Self { instance, environment, runtime: module.runtime })
    }

    fn call(&self, call: &Export<'_>) -> Result<(), Ended> {
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
