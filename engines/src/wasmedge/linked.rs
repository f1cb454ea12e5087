//! Which library of WasmEdge is linked, and whether this code is made for it.

use std::ffi::{CStr, c_uint};

use wasmedge_sys::ffi;

use super::VERSION;

/// Returns the version of the library.
pub(super) fn version() -> String {
    // SAFETY: the text is a constant of the library.
    unsafe { CStr::from_ptr(ffi::WasmEdge_VersionGet()) }.to_string_lossy().into_owned()
}

/// Returns the version of the LLVM that the library uses; `built in` if it has one of its own.
pub(super) fn llvm() -> String {
    let (mut major, mut minor, mut patch): (c_uint, c_uint, c_uint) = (0, 0, 0);
    // SAFETY: the name is a constant; a function of this name is LLVM's, of which each version gives it this type.
    unsafe {
        let function = libc::dlsym(libc::RTLD_DEFAULT, c"LLVMGetVersion".as_ptr());
        if function.is_null() {
            return "built in".to_owned();
        }
        let function: extern "C" fn(*mut c_uint, *mut c_uint, *mut c_uint) = std::mem::transmute(function);
        function(&mut major, &mut minor, &mut patch);
    }
    format!("{major}.{minor}.{patch}")
}

/// Checks that the library is one that this is made for.
///
/// # Errors
/// Which one it is.
pub(super) fn check() -> Result<(), String> {
    let (own, version) = (VERSION.rsplit_once('.').map_or(VERSION, |(own, _)| own), version());
    if version.strip_prefix(own).is_some_and(|patch| patch.starts_with('.')) {
        return Ok(());
    }
    Err(format!("libwasmedge of this system is {version}, and this is made for {own}"))
}
