//! Folders that a guest cannot change.
//!
//! WAMR keeps for each of a guest's descriptors what may be done with it, and what may be done with whatever is opened
//! below it; a guest can give such rights up, and never gets them back. So a read-only folder is one whose rights to
//! change anything have been given up before the guest runs. WAMR's functions for this are not in its public header.
//!
//! WASI's own functions refuse to open a file with more rights than the folder has. But a library asks for all that it
//! knows of (to set a file's times, say) when it opens a file for reading only. Rights that a folder does not have are
//! therefore left out of such a request, and a request to write is refused.

use std::ffi::{c_char, c_void};

use wamrx_sys as wamr;

use super::paths;
use crate::rights::{CHANGE, Rights, WRITE};
use crate::working::Intent;

/// WASI's number for a read-only file system.
const ROFS: i32 = 69;
/// WASI's number for a pointer that leads nowhere.
const FAULT: i32 = 21;
/// WASI's number for a bad descriptor.
const BADF: i32 = 8;
/// The flag by which a link at the end of a path is followed, and those by which a file is made and must be new.
const FOLLOW: u32 = 1;
const CREATE: u16 = 1;
const EXCLUSIVE: u16 = 1 << 2;

/// The beginning of WAMR's `WASIContext`.
#[repr(C)]
struct Context {
    descriptors: *mut c_void,
    folders: *mut c_void,
}

/// WASI's `fdstat`.
#[repr(C)]
#[derive(Default)]
struct Status {
    filetype: u8,
    flags: u16,
    base: Rights,
    inheriting: Rights,
}

// As they are declared in WAMR 2.4.3, whose version Cargo.toml pins for this.
unsafe extern "C" {
    fn wasm_runtime_get_wasi_ctx(instance: wamr::wasm_module_inst_t) -> *const Context;

    fn wasmtime_ssp_fd_fdstat_get(
        environment: wamr::wasm_exec_env_t,
        descriptors: *mut c_void,
        fd: i32,
        status: *mut Status,
    ) -> u16;

    fn wasmtime_ssp_fd_fdstat_set_rights(
        environment: wamr::wasm_exec_env_t,
        descriptors: *mut c_void,
        fd: i32,
        base: Rights,
        inheriting: Rights,
    ) -> u16;

    fn wasmtime_ssp_path_open(
        environment: wamr::wasm_exec_env_t,
        descriptors: *mut c_void,
        folder: i32,
        lookup: u32,
        path: *const c_char,
        length: usize,
        how: u16,
        base: Rights,
        inheriting: Rights,
        flags: u16,
        opened: *mut i32,
    ) -> u16;
}

/// A guest's table of descriptors.
#[derive(Clone, Copy)]
pub(super) struct Descriptors {
    environment: wamr::wasm_exec_env_t,
    table: *mut c_void,
    folders: *mut c_void,
}

impl Descriptors {
    /// Returns WAMR's table of descriptors.
    pub(super) fn table(self) -> *mut c_void {
        self.table
    }

    /// Returns WAMR's table of the folders that the guest was given.
    pub(super) fn folders(self) -> *mut c_void {
        self.folders
    }

    /// Finds the table; a module that does not import WASI has none.
    ///
    /// # Safety
    /// The state belongs to an instance that lives as long as the value.
    pub(super) unsafe fn of(environment: wamr::wasm_exec_env_t) -> Option<Self> {
        // SAFETY: the caller vouches for the state, and an instance's context, if it has one, begins with its table.
        let tables = unsafe {
            let context = wasm_runtime_get_wasi_ctx(wamr::wasm_runtime_get_module_inst(environment));
            context.as_ref().map(|context| (context.descriptors, context.folders))
        };
        let tables = tables.filter(|(table, _)| !table.is_null());
        tables.map(|(table, folders)| Self { environment, table, folders })
    }

    /// Gives up all rights to change a folder and what lies in it.
    ///
    /// # Errors
    /// WASI's number, e.g. that of a bad descriptor.
    pub(super) fn make_read_only(self, fd: i32) -> Result<(), u16> {
        let Status { base, inheriting, .. } = self.status(fd)?;
        // SAFETY: state and table belong together, and live.
        let error = unsafe {
            wasmtime_ssp_fd_fdstat_set_rights(self.environment, self.table, fd, base & !CHANGE, inheriting & !CHANGE)
        };
        if error == 0 { Ok(()) } else { Err(error) }
    }

    fn status(self, fd: i32) -> Result<Status, u16> {
        let mut status = Status::default();
        // SAFETY: state and table belong together, and live; the status has the layout that WASI fixes.
        let error = unsafe { wasmtime_ssp_fd_fdstat_get(self.environment, self.table, fd, &mut status) };
        if error == 0 { Ok(status) } else { Err(error) }
    }
}

/// WASI's `path_open` with requests cut to what a read-only folder allows.
///
/// # Safety
/// To be called by WAMR, registered as [`PATH_OPEN`].
pub(super) unsafe extern "C" fn path_open(
    environment: wamr::wasm_exec_env_t,
    folder: i32,
    lookup: u32,
    path: *const c_char,
    length: u32,
    how: u32,
    mut base: Rights,
    mut inheriting: Rights,
    flags: u32,
    opened: *mut c_void,
) -> i32 {
    // SAFETY: WAMR calls this with the state of the instance that runs.
    let Some(descriptors) = (unsafe { Descriptors::of(environment) }) else { return BADF };
    // SAFETY: the state is that of the instance that runs. WAMR itself has checked no more of the pointer than that its
    // first byte lies in the guest's memory.
    let valid = unsafe {
        let instance = wamr::wasm_runtime_get_module_inst(environment);
        wamr::wasm_runtime_validate_native_addr(instance, opened, size_of::<i32>() as u64)
    };
    if !valid {
        return FAULT;
    }
    match descriptors.status(folder) {
        Ok(status) if status.inheriting & CHANGE == 0 => {
            if base & WRITE != 0 {
                return ROFS;
            }
            base &= !CHANGE;
            inheriting &= !CHANGE;
        }
        // A bad descriptor is refused below.
        _ => {}
    }
    let mut fd = -1;
    let (table, how, flags) = (descriptors.table, how as u16, flags as u16);
    let follow = lookup & FOLLOW != 0 && how & EXCLUSIVE == 0;
    // A link that must not be there is not followed either.
    let lookup = if follow { lookup } else { lookup & !FOLLOW };
    let intent = match (how & CREATE != 0, how & EXCLUSIVE != 0) {
        (true, true) => Intent::New,
        (true, false) => Intent::Create,
        _ => Intent::Use,
    };
    // SAFETY: state and table belong together, and live; WAMR has checked that `length` bytes from `path` on lie in the
    // guest's memory. WASI gives the two sets of flags 16 bits each, of which WAMR passes on as many.
    let error = unsafe {
        let path = paths::text(path, length);
        paths::retried(descriptors, folder, path, follow, intent, |folder, path, length| {
            let open = wasmtime_ssp_path_open;
            open(environment, table, folder, lookup, path, length, how, base, inheriting, flags, &mut fd).into()
        })
    };
    // SAFETY: it was checked that there are four bytes; they need not be aligned.
    unsafe { opened.cast::<i32>().write_unaligned(fd) };
    error
}

/// The parameters of [`path_open`] in WAMR's notation: `*~` is a pointer and the length of what it points to.
pub(super) const PATH_OPEN: &std::ffi::CStr = c"(ii*~iIIi*)i";
