//! The calls of WasmEdge's C interface that compile and load, made safe.

use std::ffi::{CStr, CString, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Once;

use wasmedge_sys::ffi;

use super::options::CodeOptions;
use super::proposals;
use crate::Optimize;

/// Turns a result into WasmEdge's message about it.
pub(super) fn said(result: ffi::WasmEdge_Result) -> Result<(), String> {
    // SAFETY: the text is a constant of the library.
    unsafe {
        if ffi::WasmEdge_ResultOK(result) {
            return Ok(());
        }
        Err(CStr::from_ptr(ffi::WasmEdge_ResultGetMessage(result)).to_string_lossy().into_owned())
    }
}

/// The settings with which WasmEdge compiles, loads and runs.
pub(super) struct Configuration(NonNull<ffi::WasmEdge_ConfigureContext>);

impl Configuration {
    /// Makes a configuration, and silences WasmEdge: its messages would go to the guest's standard output.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn new(options: &CodeOptions) -> Result<Self, String> {
        static SILENCE: Once = Once::new();
        // SAFETY: the call changes a setting of the library.
        SILENCE.call_once(|| unsafe { ffi::WasmEdge_LogOff() });
        // SAFETY: the new configuration belongs to the value.
        let context =
            NonNull::new(unsafe { ffi::WasmEdge_ConfigureCreate() }).ok_or("WasmEdge cannot allocate its objects")?;
        let configuration = Self(context);
        let context = configuration.as_ptr();
        let level = match options.optimize() {
            Optimize::Speed => ffi::WasmEdge_CompilerOptimizationLevel_O3,
            Optimize::Size => ffi::WasmEdge_CompilerOptimizationLevel_Os,
            Optimize::None => ffi::WasmEdge_CompilerOptimizationLevel_O0,
        };
        // SAFETY: the configuration has just been made, and all of these are settings of it.
        unsafe {
            for (proposal, take) in proposals::switches(options.features()) {
                match take {
                    true => ffi::WasmEdge_ConfigureAddProposal(context, proposal),
                    false => ffi::WasmEdge_ConfigureRemoveProposal(context, proposal),
                }
            }
            ffi::WasmEdge_ConfigureSetRunMode(context, ffi::WasmEdge_RunMode_AOT);
            ffi::WasmEdge_ConfigureSetAllowAFUNIX(context, false);
            ffi::WasmEdge_ConfigureCompilerSetOptimizationLevel(context, level);
            // The only format that the loader maps from its file.
            ffi::WasmEdge_ConfigureCompilerSetOutputFormat(context, ffi::WasmEdge_CompilerOutputFormat_Native);
            ffi::WasmEdge_ConfigureCompilerSetGenericBinary(context, options.generic());
            ffi::WasmEdge_ConfigureStatisticsSetCostMeasuring(context, options.fuel());
        }
        Ok(configuration)
    }

    /// Sets the maximum pages of each memory.
    pub(super) fn limit(&mut self, pages: u64) {
        // SAFETY: the configuration lives, and this is a setting of it.
        unsafe { ffi::WasmEdge_ConfigureSetMaxMemoryPage(self.as_ptr(), pages) };
    }

    /// Returns the library's pointer to it.
    pub(super) fn as_ptr(&self) -> *mut ffi::WasmEdge_ConfigureContext {
        self.0.as_ptr()
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        // SAFETY: `new` made it, and all objects made with it have copied it.
        unsafe { ffi::WasmEdge_ConfigureDelete(self.as_ptr()) };
    }
}

/// Compiles to a file, and uses temporary files beside it.
///
/// # Errors
/// WasmEdge's message.
pub(super) fn compile(configuration: &Configuration, wasm: &[u8], output: &Path) -> Result<(), String> {
    let length = u32::try_from(wasm.len()).map_err(|_| "it is too large".to_owned())?;
    let output = path(output)?;
    // SAFETY: the bytes, their number and the path are correct, and live through the calls. This function makes and
    // releases the compiler.
    unsafe {
        let compiler = ffi::WasmEdge_CompilerCreate(configuration.as_ptr());
        if compiler.is_null() {
            return Err("wasmedge is built without its compiler".to_owned());
        }
        let bytes = ffi::WasmEdge_BytesWrap(wasm.as_ptr(), length);
        let result = ffi::WasmEdge_CompilerCompileFromBytes(compiler, bytes, output.as_ptr());
        ffi::WasmEdge_CompilerDelete(compiler);
        said(result)
    }
}

/// A module with mapped native code.
pub(super) struct Module(NonNull<ffi::WasmEdge_ASTModuleContext>);

// SAFETY: once loaded, a module is only read, by any thread that makes an instance of it.
unsafe impl Send for Module {}
// SAFETY: as above: several threads may read it.
unsafe impl Sync for Module {}

impl Module {
    /// Maps a file with native code.
    ///
    /// # Safety
    /// The file is an output of WasmEdge's compiler, and does not change.
    ///
    /// # Errors
    /// WasmEdge's message.
    pub(super) unsafe fn load(configuration: &Configuration, file: &Path) -> Result<Self, String> {
        let file = path(file)?;
        let mut module = ptr::null_mut();
        // SAFETY: the caller vouches for the file. This function makes and releases the loader and the validator; the
        // module belongs to the value.
        unsafe {
            let loader = ffi::WasmEdge_LoaderCreate(configuration.as_ptr());
            let result = ffi::WasmEdge_LoaderParseFromFile(loader, &mut module, file.as_ptr());
            ffi::WasmEdge_LoaderDelete(loader);
            said(result)?;
            let module = Self(NonNull::new(module).ok_or("wasmedge loads nothing")?);
            let validator = ffi::WasmEdge_ValidatorCreate(configuration.as_ptr());
            let result = ffi::WasmEdge_ValidatorValidate(validator, module.as_ptr());
            ffi::WasmEdge_ValidatorDelete(validator);
            said(result)?;
            Ok(module)
        }
    }

    /// Returns the library's pointer to it.
    pub(super) fn as_ptr(&self) -> *mut ffi::WasmEdge_ASTModuleContext {
        self.0.as_ptr()
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: the module was loaded, and no instance of it is left, because instances borrow it.
        unsafe { ffi::WasmEdge_ASTModuleDelete(self.as_ptr()) };
    }
}

/// A library of native code that is already mapped.
pub(super) struct Mapped(NonNull<c_void>);

impl Mapped {
    /// Finds the library by its file.
    ///
    /// # Errors
    /// The library is not mapped.
    pub(super) fn find(file: &Path) -> Result<Self, String> {
        const FLAGS: c_int = libc::RTLD_LAZY | libc::RTLD_LOCAL | libc::RTLD_NOLOAD;
        let file = path(file)?;
        // SAFETY: the path lives through the call, and the call maps nothing that is not mapped already.
        let handle = unsafe { libc::dlopen(file.as_ptr(), FLAGS) };
        NonNull::new(handle).map(Self).ok_or_else(|| "its native code was not mapped".to_owned())
    }

    /// Returns the compiled wasm, which the compiler has stored in the library.
    pub(super) fn wasm(&self) -> Option<&[u8]> {
        // SAFETY: the library is mapped as long as the value lives. The compiler gives these names to the bytes and
        // their number, which never change.
        unsafe {
            let size = libc::dlsym(self.0.as_ptr(), c"wasm.size".as_ptr()).cast::<u32>();
            let code = libc::dlsym(self.0.as_ptr(), c"wasm.code".as_ptr()).cast::<u8>();
            if size.is_null() || code.is_null() {
                return None;
            }
            Some(std::slice::from_raw_parts(code, *size as usize))
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: `find` opened the library, and all data read from it borrows the value.
        unsafe { libc::dlclose(self.0.as_ptr()) };
    }
}

fn path(path: &Path) -> Result<CString, String> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())
}
