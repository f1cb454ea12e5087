//! The few calls of WAMR's C interface, made safe: one module, in a process of its own, from loading to its end.

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::slice;

use wamrx_sys as wamr;

use crate::end::End;
use crate::wasi::{self, Call, Wasi};

/// Size of the buffer for WAMR's error messages, in bytes.
const MESSAGE: usize = 256;
/// Name of the module from which guests import WASI.
const MODULE: &CStr = c"wasi_snapshot_preview1";
/// The exception by which a guest exits.
const EXIT: &CStr = c"guest exits";
/// WAMR's message when a guest's calls have used up its stack.
const OVERFLOW: &str = "wasm operand stack overflow";
/// The prefix of every exception.
const EXCEPTION: &str = "Exception: ";

/// The settings of a guest.
pub(super) struct Settings {
    /// Bytes of the guest's stack.
    pub(super) stack: u32,
    /// Maximum pages of the linear memory; never 0.
    pub(super) pages: Option<u32>,
}

/// An exported function to call. It has no parameters.
pub(super) struct Export<'a> {
    pub(super) name: &'a str,
    /// Number of its results.
    pub(super) results: usize,
}

/// Loads a module and calls its functions, one after the other, until one does not return. WAMR may change `bytes`.
/// They are released once WAMR has translated them.
pub(super) fn run(bytes: Vec<u8>, settings: &Settings, wasi: Wasi, calls: &[Export<'_>]) -> End {
    let run = move || {
        let runtime = Runtime::start(wasi)?;
        let module = Module::load(&runtime, bytes)?;
        let instance = Instance::make(&module, settings)?;
        calls.iter().try_for_each(|call| instance.call(call))
    };
    run().err().unwrap_or(End::Exited(0))
}

/// Returns the version of WAMR.
#[cfg(test)]
pub(super) fn version() -> String {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: each pointer is to a number that lives through the call.
    unsafe { wamr::wasm_runtime_get_version(&mut major, &mut minor, &mut patch) };
    format!("{major}.{minor}.{patch}")
}

/// The runtime, from its start to its end. There is at most one at a time: the process runs one guest.
struct Runtime {
    /// The state that WASI's functions use.
    state: Box<UnsafeCell<State>>,
    /// The data of each function.
    _imports: Box<[Import]>,
    /// The list of the functions. WAMR keeps the pointer, and sorts the list.
    _functions: Box<[wamr::NativeSymbol]>,
}

/// A guest's WASI state, and its exit code.
struct State {
    wasi: Wasi,
    code: u32,
}

/// A function of WASI.
struct Import {
    name: CString,
    signature: CString,
    parameters: usize,
    /// `None` for the function that ends the guest.
    call: Option<Call>,
    state: *mut State,
}

impl Runtime {
    fn start(wasi: Wasi) -> Result<Self, End> {
        let mut args =
            wamr::RuntimeInitArgs { mem_alloc_type: wamr::Alloc_With_System_Allocator, ..Default::default() };
        // SAFETY: the arguments live through the call, and WAMR copies those that it keeps; the allocator is the
        // process's own.
        if !unsafe { wamr::wasm_runtime_full_init(&mut args) } {
            return Err(End::NotStarted("wamr cannot be started".to_owned()));
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
        // SAFETY: the module's name is a constant. The other names, the signatures and the list are in boxes of their
        // own, which are dropped after the runtime.
        let registered =
            unsafe { wamr::wasm_runtime_register_natives_raw(MODULE.as_ptr(), functions.as_mut_ptr(), count) };
        let runtime = Self { state, _imports: imports, _functions: functions };
        if registered { Ok(runtime) } else { Err(End::NotStarted("wamr refuses the functions of WASI".to_owned())) }
    }

    /// Returns the guest's exit code.
    fn code(&self) -> u32 {
        // SAFETY: the guest calls no function any more.
        unsafe { (*self.state.get()).code }
    }

    /// Returns the end of a guest that WAMR's message describes; `None` if the message is no exception.
    fn end(&self, message: &str) -> Option<End> {
        let (_, reason) = message.split_once(EXCEPTION)?;
        Some(if reason.as_bytes() == EXIT.to_bytes() {
            End::Exited(self.code())
        } else {
            let reason = if reason == OVERFLOW { "call stack exhausted" } else { reason };
            End::Trapped(format!("wasm trap: {reason}"))
        })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // SAFETY: the runtime was started. All values made with it are gone, because they borrow it.
        unsafe { wamr::wasm_runtime_destroy() };
    }
}

/// Calls a function of WASI for the guest, or ends the guest. `values` holds the arguments, and after the call the
/// result.
unsafe extern "C" fn answer(environment: wamr::wasm_exec_env_t, values: *mut u64) {
    // SAFETY: WAMR calls this with the environment of the instance that runs, and with as many arguments as the
    // function was registered with. The data attached to the function lives as long as the runtime. No other code uses
    // the state while the guest waits for the answer. The memory, if there is one, has as many pages as it says. It is
    // not shared, because the engine refuses such modules.
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
    fn load(runtime: &'a Runtime, mut bytes: Vec<u8>) -> Result<Self, End> {
        let size = u32::try_from(bytes.len()).map_err(|_| End::NotStarted("the module is too large".to_owned()))?;
        let mut name = [0; 1];
        let args = wamr::LoadArgs { name: name.as_mut_ptr(), wasm_binary_freeable: true, ..Default::default() };
        let mut message = [0; MESSAGE];
        // SAFETY: the buffer has that size, is writable, and stays in its place as long as WAMR refers to it. The other
        // pointers are to values that live through the call.
        let module = unsafe {
            wamr::wasm_runtime_load_ex(bytes.as_mut_ptr(), size, &args, message.as_mut_ptr(), MESSAGE as u32)
        };
        if module.is_null() {
            return Err(End::NotStarted(read(&message)));
        }
        // SAFETY: the module has just been loaded.
        let translated = unsafe { wamr::wasm_runtime_is_underlying_binary_freeable(module) };
        Ok(Self { module, _bytes: (!translated).then_some(bytes), runtime })
    }
}

impl Drop for Module<'_> {
    fn drop(&mut self) {
        // SAFETY: the module was loaded, and no instance of it is left, because instances borrow it.
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
    fn make(module: &'a Module<'a>, settings: &Settings) -> Result<Self, End> {
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
            return Err(module.runtime.end(&message).unwrap_or(End::NotStarted(message)));
        }
        // SAFETY: the instance has just been made.
        let environment = unsafe { wamr::wasm_runtime_create_exec_env(instance, settings.stack) };
        if environment.is_null() {
            // SAFETY: the instance has just been made, and no other code has it.
            unsafe { wamr::wasm_runtime_deinstantiate(instance) };
            return Err(End::NotStarted("there is no memory for its stack".to_owned()));
        }
        Ok(Self { instance, environment, runtime: module.runtime })
    }

    fn call(&self, call: &Export<'_>) -> Result<(), End> {
        let gone = || End::NotStarted(format!("export {:?} is gone", call.name));
        let name = CString::new(call.name).map_err(|_| gone())?;
        // SAFETY: the instance and the name live through the call.
        let function = unsafe { wamr::wasm_runtime_lookup_function(self.instance, name.as_ptr()) };
        if function.is_null() {
            return Err(gone());
        }
        // No value of an accepted type needs more than two cells.
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
        Err(self.runtime.end(&exception).unwrap_or(End::Trapped(format!("wasm trap: {exception}"))))
    }
}

impl Drop for Instance<'_> {
    fn drop(&mut self) {
        // SAFETY: `make` made both, and no other code uses them.
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
