//! The calls of WasmEdge's C interface that compile and load, made safe.

use std::ffi::{CStr, CString, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Once;

use wasmedge_sys::ffi;

use super::options::Options;
use super::proposals;
use crate::Optimize;

/// Turns a result into what WasmEdge says of it.
pub(super) fn said(result: ffi::WasmEdge_Result) -> Result<(), String> {
    // SAFETY: the text is a constant of the library.
    unsafe {
        if ffi::WasmEdge_ResultOK(result) {
            return Ok(());
        }
        Err(CStr::from_ptr(ffi::WasmEdge_ResultGetMessage(result)).to_string_lossy().into_owned())
    }
}

/// How WasmEdge is to compile, load and run.
pub(super) struct Configuration(NonNull<ffi::WasmEdge_ConfigureContext>);

impl Configuration {
    /// Makes one, and silences WasmEdge, whose messages would go to the guest's standard output.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        static SILENCE: Once = Once::new();
        // SAFETY: it changes a setting of the library.
        SILENCE.call_once(|| unsafe { ffi::WasmEdge_LogOff() });
        // SAFETY: what is made belongs to the value.
        let context = NonNull::new(unsafe { ffi::WasmEdge_ConfigureCreate() }).ok_or("wasmedge has no memory")?;
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
            // The only format that is mapped from its file.
            ffi::WasmEdge_ConfigureCompilerSetOutputFormat(context, ffi::WasmEdge_CompilerOutputFormat_Native);
            ffi::WasmEdge_ConfigureCompilerSetGenericBinary(context, options.generic());
            ffi::WasmEdge_ConfigureStatisticsSetCostMeasuring(context, options.fuel());
        }
        Ok(configuration)
    }

    /// Sets how many pages each memory may have.
    pub(super) fn limit(&mut self, pages: u64) {
        // SAFETY: the configuration lives, and it is a setting of it.
        unsafe { ffi::WasmEdge_ConfigureSetMaxMemoryPage(self.as_ptr(), pages) };
    }

    /// Returns it as the library knows it.
    pub(super) fn as_ptr(&self) -> *mut ffi::WasmEdge_ConfigureContext {
        self.0.as_ptr()
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        // SAFETY: it was made by `new`, and whoever was made with it has copied it.
        unsafe { ffi::WasmEdge_ConfigureDelete(self.as_ptr()) };
    }
}

/// Compiles to a file, and puts others beside it while it does.
///
/// # Errors
/// What WasmEdge says.
pub(super) fn compile(configuration: &Configuration, wasm: &[u8], output: &Path) -> Result<(), String> {
    let length = u32::try_from(wasm.len()).map_err(|_| "it is too large".to_owned())?;
    let output = path(output)?;
    // SAFETY: the bytes, their number and the path are what they are said to be, and live through the calls; the compiler
    // is made and released here.
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

/// A module whose native code is mapped.
pub(super) struct Module(NonNull<ffi::WasmEdge_ASTModuleContext>);

// SAFETY: once loaded, a module is only read, by whichever thread makes an instance of it.
unsafe impl Send for Module {}
// SAFETY: as above: several threads may read it.
unsafe impl Sync for Module {}

impl Module {
    /// Maps a file with native code.
    ///
    /// # Safety
    /// The file is one that WasmEdge's compiler made, and does not change.
    ///
    /// # Errors
    /// What WasmEdge says.
    pub(super) unsafe fn load(configuration: &Configuration, file: &Path) -> Result<Self, String> {
        let file = path(file)?;
        let mut module = ptr::null_mut();
        // SAFETY: the caller vouches for the file; loader and validator are made and released here; the module belongs to
        // the value.
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

    /// Returns it as the library knows it.
    pub(super) fn as_ptr(&self) -> *mut ffi::WasmEdge_ASTModuleContext {
        self.0.as_ptr()
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: it was loaded, and no instance of it is left: instances borrow it.
        unsafe { ffi::WasmEdge_ASTModuleDelete(self.as_ptr()) };
    }
}

/// A library of native code that is mapped already.
pub(super) struct Mapped(NonNull<c_void>);

impl Mapped {
    /// Finds it by its file.
    ///
    /// # Errors
    /// It is not mapped.
    pub(super) fn find(file: &Path) -> Result<Self, String> {
        const FLAGS: c_int = libc::RTLD_LAZY | libc::RTLD_LOCAL | libc::RTLD_NOLOAD;
        let file = path(file)?;
        // SAFETY: the path lives through the call, and nothing is mapped that is not mapped already.
        let handle = unsafe { libc::dlopen(file.as_ptr(), FLAGS) };
        NonNull::new(handle).map(Self).ok_or_else(|| "its native code was not mapped".to_owned())
    }

    /// Returns the wasm that was compiled, which the compiler has written down.
    pub(super) fn wasm(&self) -> Option<&[u8]> {
        // SAFETY: the library is mapped as long as the value lives, and the compiler gives these names to the bytes and their
        // number, which it never changes.
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
        // SAFETY: it was opened by `find`, and what was read from it borrows the value.
        unsafe { libc::dlclose(self.0.as_ptr()) };
    }
}

fn path(path: &Path) -> Result<CString, String> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())
}
