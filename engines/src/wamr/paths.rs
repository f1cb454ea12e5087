//! Paths of a guest that has all of its process's root: what WAMR refuses to resolve is resolved by [`crate::paths`].
//!
//! WAMR walks a path name by name, and refuses what is absolute or climbs out of the folder that it starts from (`notcapable`). Its
//! functions that take a path are replaced by ones that call them, and call them once more if a path was refused: with the folder in
//! which the kernel finds what the path leads to, in the place of the guest's folder for as long as the call takes, and the last name.
//! Two paths may start from one folder, so links and new names are then made here, if WAMR's rights allow it.
//!
//! WAMR's functions and tables for this are not in its public header. That its table is laid out as here is checked before a guest runs.

use std::ffi::{CStr, c_char, c_void};
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{ptr, slice};

use rustix::fs::{AtFlags, linkat, renameat, symlinkat};
use rustix::io::Errno;
use wamrx_sys as wamr;

use super::rights::Descriptors;
use crate::paths::{self, Place, wasi_number};
use crate::preopens;
use crate::rights::{PATH_LINK_SOURCE, PATH_LINK_TARGET, PATH_RENAME_SOURCE, PATH_RENAME_TARGET, PATH_SYMLINK, Rights};
use crate::working::{Choice, Intent, Working};

const BADF: i32 = 8;
const FAULT: i32 = 21;
const NOTCAPABLE: i32 = 76;
/// The flag by which a link at the end of a path is followed.
const FOLLOW: u32 = 1;

/// Whether the guest has all of the process's root. The process runs one guest.
static HAS_ROOT: AtomicBool = AtomicBool::new(false);

/// Where paths lead that may start in either of two folders.
static WORKING: Mutex<Option<Working>> = Mutex::new(None);
/// The numbers of `/`, and of the folder that stands for it and for the working directory.
const ROOT: i32 = FOLDERS + preopens::ROOT;
const EITHER: i32 = FOLDERS + preopens::EITHER;
/// The number of the first folder.
const FOLDERS: i32 = 3;

/// Returns the guest's descriptors and leaves with WASI's number for a bad one if there are none.
macro_rules! descriptors {
    ($environment:ident) => {
        // SAFETY: WAMR calls this with the state of the instance that runs.
        match unsafe { Descriptors::of($environment) } {
            Some(descriptors) => descriptors,
            None => return BADF,
        }
    };
}

/// WAMR's `fd_table`.
#[repr(C)]
struct Table {
    /// A `pthread_rwlock_t`.
    lock: [u64; 7],
    entries: *const Entry,
    size: usize,
    used: usize,
}

/// WAMR's `fd_entry`.
#[repr(C)]
struct Entry {
    object: *mut Object,
    base: Rights,
    inheriting: Rights,
}

/// The beginning of WAMR's `fd_object`.
#[repr(C)]
struct Object {
    count: u32,
    kind: u8,
    handle: RawFd,
}

/// WASI's number for a folder.
const FOLDER: u8 = 3;

// As they are declared in WAMR 2.4.3, whose version Cargo.toml pins for this.
unsafe extern "C" {
    fn wasmtime_ssp_path_create_directory(
        e: Environment,
        t: *mut c_void,
        fd: i32,
        path: *const c_char,
        l: usize,
    ) -> u16;
    fn wasmtime_ssp_path_remove_directory(
        e: Environment,
        t: *mut c_void,
        fd: i32,
        path: *const c_char,
        l: usize,
    ) -> u16;
    fn wasmtime_ssp_path_unlink_file(e: Environment, t: *mut c_void, fd: i32, path: *const c_char, l: usize) -> u16;
    fn wasmtime_ssp_path_filestat_get(
        e: Environment,
        t: *mut c_void,
        fd: i32,
        lookup: u32,
        path: *const c_char,
        l: usize,
        found: *mut c_void,
    ) -> u16;
    fn wasmtime_ssp_path_filestat_set_times(
        e: Environment,
        t: *mut c_void,
        fd: i32,
        lookup: u32,
        path: *const c_char,
        l: usize,
        accessed: u64,
        modified: u64,
        which: u16,
    ) -> u16;
    fn wasmtime_ssp_path_readlink(
        e: Environment,
        t: *mut c_void,
        fd: i32,
        path: *const c_char,
        l: usize,
        target: *mut c_char,
        room: usize,
        used: *mut usize,
    ) -> u16;
    fn wasmtime_ssp_path_rename(
        e: Environment,
        t: *mut c_void,
        from: i32,
        source: *const c_char,
        source_length: usize,
        to: i32,
        target: *const c_char,
        target_length: usize,
    ) -> u16;
    fn wasmtime_ssp_path_link(
        e: Environment,
        t: *mut c_void,
        p: *mut c_void,
        from: i32,
        lookup: u32,
        source: *const c_char,
        source_length: usize,
        to: i32,
        target: *const c_char,
        target_length: usize,
    ) -> u16;
    fn wasmtime_ssp_path_symlink(
        e: Environment,
        t: *mut c_void,
        p: *mut c_void,
        text: *const c_char,
        text_length: usize,
        fd: i32,
        path: *const c_char,
        l: usize,
    ) -> u16;
}

type Environment = wamr::wasm_exec_env_t;

unsafe extern "C" {
    fn wasmtime_ssp_fd_close(e: Environment, t: *mut c_void, p: *mut c_void, fd: i32) -> u16;
    fn wasmtime_ssp_fd_renumber(e: Environment, t: *mut c_void, p: *mut c_void, from: i32, to: i32) -> u16;
}

unsafe extern "C" fn close(environment: Environment, fd: i32) -> i32 {
    let descriptors = descriptors!(environment);
    forget(fd);
    // SAFETY: state and tables belong together, and live.
    unsafe { wasmtime_ssp_fd_close(environment, descriptors.table(), descriptors.folders(), fd).into() }
}

unsafe extern "C" fn renumber(environment: Environment, from: i32, to: i32) -> i32 {
    let descriptors = descriptors!(environment);
    forget(from);
    forget(to);
    // SAFETY: state and tables belong together, and live.
    unsafe { wasmtime_ssp_fd_renumber(environment, descriptors.table(), descriptors.folders(), from, to).into() }
}

/// Notes that the guest has all of the process's root; returns whether WAMR's table is laid out as it has to be: the folder `fd` is the
/// file `own`.
pub(super) fn give_root(descriptors: Descriptors, fd: i32, own: &std::fs::File, working: Option<Working>) -> bool {
    if let Ok(mut known) = WORKING.lock() {
        *known = working;
    }
    let same = folder_of(descriptors, fd).is_some_and(|(_, object)| {
        // SAFETY: the entry is WAMR's own, which lives as long as its table, and its folder is open.
        let handle = unsafe { BorrowedFd::borrow_raw((*object).handle) };
        let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        match (rustix::fs::fstat(handle), rustix::fs::fstat(own)) {
            (Ok(given), Ok(wanted)) => identity(given) == identity(wanted),
            _ => false,
        }
    });
    HAS_ROOT.store(same, Ordering::Relaxed);
    same
}

/// Finds the entry of a folder in WAMR's table: its rights, and what stands behind it.
fn folder_of(descriptors: Descriptors, fd: i32) -> Option<(Rights, *mut Object)> {
    let fd = usize::try_from(fd).ok()?;
    // SAFETY: the table is WAMR's own; it has as many entries as it says, and one thread uses it. The layout is checked when the instance
    // is made, on the first entry that is a folder.
    unsafe {
        let table = &*descriptors.table().cast::<Table>();
        if table.entries.is_null() || fd >= table.size {
            return None;
        }
        let entry = &*table.entries.add(fd);
        let is_folder = !entry.object.is_null() && (*entry.object).kind == FOLDER;
        is_folder.then_some((entry.base, entry.object))
    }
}

/// Reads a text of the guest.
///
/// # Safety
/// There are as many bytes, in memory that lives as long as the result is used.
pub(super) unsafe fn text<'a>(path: *const c_char, length: u32) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: the caller vouches for it.
    unsafe { slice::from_raw_parts(path.cast(), length as usize) }
}

/// Finds where a path leads that starts in a folder of the guest's.
fn find(
    descriptors: Descriptors,
    fd: i32,
    path: &[u8],
    follow: bool,
) -> Option<(Rights, *mut Object, Result<Place, Errno>)> {
    let (rights, object) = folder_of(descriptors, fd)?;
    // SAFETY: the folder is open as long as its entry is there.
    let base = unsafe { BorrowedFd::borrow_raw((*object).handle) };
    Some((rights, object, paths::locate(base, path, follow)))
}

/// Calls with the guest's folder and path; if that is refused, with what the path leads to.
pub(super) fn retried(
    descriptors: Descriptors,
    fd: i32,
    path: &[u8],
    follow: bool,
    intent: Intent,
    mut call: impl FnMut(i32, *const c_char, usize) -> i32,
) -> i32 {
    let Some(fd) = steer(fd, path, follow, intent) else { return NOTCAPABLE };
    let mut call = |path: *const c_char, length| call(fd, path, length);
    let error = call(path.as_ptr().cast(), path.len());
    if error != NOTCAPABLE || !HAS_ROOT.load(Ordering::Relaxed) {
        return error;
    }
    match find(descriptors, fd, path, follow) {
        None => error,
        Some((_, _, Err(errno))) => wasi_number(errno),
        Some((_, object, Ok(place))) => {
            let name = place.name.as_bytes();
            // SAFETY: the entry is there, and nobody else looks at it during the call, after which it is as before.
            unsafe {
                let own = (*object).handle;
                (*object).handle = place.parent.as_raw_fd();
                let error = call(name.as_ptr().cast(), name.len());
                (*object).handle = own;
                error
            }
        }
    }
}

/// Returns the folder that a path starts in: the one asked for, or `/` in the place of the one that stands for both; `None` if nobody
/// knows what the path means.
fn steer(fd: i32, path: &[u8], follow: bool, intent: Intent) -> Option<i32> {
    let working = WORKING.lock().ok()?;
    match (working.as_ref(), fd) {
        (Some(working), EITHER) => match working.choose(path, follow, intent) {
            Choice::Working => Some(fd),
            Choice::Root => Some(ROOT),
            Choice::Unknown => None,
        },
        _ => Some(fd),
    }
}

/// Forgets the folder that stands for both, when the guest has closed it.
fn forget(fd: i32) {
    if fd == EITHER
        && let Ok(mut working) = WORKING.lock()
    {
        *working = None;
    }
}

/// Does something with two paths that WAMR has refused, if the folders' rights allow it.
fn two_paths(
    descriptors: Descriptors,
    (from, source, source_right): (i32, &[u8], Rights),
    (to, target, target_right): (i32, &[u8], Rights),
    follow: bool,
    act: impl FnOnce(&Place, &Place) -> Result<(), Errno>,
) -> i32 {
    let found = (find(descriptors, from, source, follow), find(descriptors, to, target, false));
    let (Some((own, _, source)), Some((other, _, target))) = found else { return NOTCAPABLE };
    if own & source_right == 0 || other & target_right == 0 {
        return NOTCAPABLE;
    }
    let done = source.and_then(|source| target.and_then(|target| act(&source, &target)));
    done.map_or_else(wasi_number, |()| 0)
}

/// Makes a function that takes one path and has no result but an error.
macro_rules! plain {
    ($($name:ident calls $function:ident for $intent:ident),*) => {
        $(unsafe extern "C" fn $name(environment: Environment, fd: i32, path: *const c_char, length: u32) -> i32 {
            let descriptors = descriptors!(environment);
            // SAFETY: WAMR has checked that the path lies in the guest's memory; state and table belong together, and live.
            unsafe {
                retried(descriptors, fd, text(path, length), false, Intent::$intent, |fd, path, length| {
                    $function(environment, descriptors.table(), fd, path, length).into()
                })
            }
        })*
    };
}

plain! {
    create_directory calls wasmtime_ssp_path_create_directory for New,
    remove_directory calls wasmtime_ssp_path_remove_directory for Use,
    unlink_file calls wasmtime_ssp_path_unlink_file for Use
}

/// Says whether `size` bytes from an address on lie in the guest's memory.
fn is_valid(environment: Environment, address: *mut c_void, size: usize) -> bool {
    // SAFETY: WAMR calls this with the state of the instance that runs.
    unsafe {
        let instance = wamr::wasm_runtime_get_module_inst(environment);
        wamr::wasm_runtime_validate_native_addr(instance, address, size as u64)
    }
}

unsafe extern "C" fn filestat_get(
    environment: Environment,
    fd: i32,
    lookup: u32,
    path: *const c_char,
    length: u32,
    found: *mut c_void,
) -> i32 {
    /// Bytes of a `filestat`.
    const SIZE: usize = 64;
    let descriptors = descriptors!(environment);
    if !is_valid(environment, found, SIZE) {
        return FAULT;
    }
    // SAFETY: WAMR has checked that the path lies in the guest's memory, and the result does; state and table belong together, and live.
    unsafe {
        retried(descriptors, fd, text(path, length), lookup & FOLLOW != 0, Intent::Look, |fd, path, length| {
            wasmtime_ssp_path_filestat_get(environment, descriptors.table(), fd, lookup, path, length, found).into()
        })
    }
}

unsafe extern "C" fn filestat_set_times(
    environment: Environment,
    fd: i32,
    lookup: u32,
    path: *const c_char,
    length: u32,
    accessed: u64,
    modified: u64,
    which: u32,
) -> i32 {
    let descriptors = descriptors!(environment);
    let (table, which) = (descriptors.table(), which as u16);
    // SAFETY: WAMR has checked that the path lies in the guest's memory; state and table belong together, and live.
    unsafe {
        retried(descriptors, fd, text(path, length), lookup & FOLLOW != 0, Intent::Use, |fd, path, length| {
            let function = wasmtime_ssp_path_filestat_set_times;
            function(environment, table, fd, lookup, path, length, accessed, modified, which).into()
        })
    }
}

unsafe extern "C" fn readlink(
    environment: Environment,
    fd: i32,
    path: *const c_char,
    length: u32,
    target: *mut c_char,
    room: u32,
    used: *mut c_void,
) -> i32 {
    let descriptors = descriptors!(environment);
    if !is_valid(environment, used, size_of::<u32>()) {
        return FAULT;
    }
    let (table, room, mut size) = (descriptors.table(), room as usize, 0);
    // SAFETY: WAMR has checked that path and target lie in the guest's memory, and the result does, aligned or not; state and table belong
    // together, and live.
    unsafe {
        let error = retried(descriptors, fd, text(path, length), false, Intent::Use, |fd, path, length| {
            wasmtime_ssp_path_readlink(environment, table, fd, path, length, target, room, &mut size).into()
        });
        if error == 0 {
            used.cast::<u32>().write_unaligned(u32::try_from(size).unwrap_or(u32::MAX));
        }
        error
    }
}

unsafe extern "C" fn rename(
    environment: Environment,
    from: i32,
    source: *const c_char,
    source_length: u32,
    to: i32,
    target: *const c_char,
    target_length: u32,
) -> i32 {
    let descriptors = descriptors!(environment);
    // SAFETY: WAMR has checked that both paths lie in the guest's memory.
    let texts = unsafe { (text(source, source_length), text(target, target_length)) };
    let (Some(from), Some(to)) = (steer(from, texts.0, false, Intent::Use), steer(to, texts.1, false, Intent::Create))
    else {
        return NOTCAPABLE;
    };
    // SAFETY: WAMR has checked that both paths lie in the guest's memory; state and table belong together, and live.
    let (error, source, target) = unsafe {
        let (a, b) = (source_length as usize, target_length as usize);
        let error = wasmtime_ssp_path_rename(environment, descriptors.table(), from, source, a, to, target, b);
        (i32::from(error), text(source, source_length), text(target, target_length))
    };
    if error != NOTCAPABLE || !HAS_ROOT.load(Ordering::Relaxed) {
        return error;
    }
    let (source, target) = ((from, source, PATH_RENAME_SOURCE), (to, target, PATH_RENAME_TARGET));
    two_paths(descriptors, source, target, false, |a, b| renameat(&a.parent, &a.name, &b.parent, &b.name))
}

unsafe extern "C" fn link(
    environment: Environment,
    from: i32,
    lookup: u32,
    source: *const c_char,
    source_length: u32,
    to: i32,
    target: *const c_char,
    target_length: u32,
) -> i32 {
    let descriptors = descriptors!(environment);
    // SAFETY: as for `rename`.
    let texts = unsafe { (text(source, source_length), text(target, target_length)) };
    let from = steer(from, texts.0, lookup & FOLLOW != 0, Intent::Use);
    let (Some(from), Some(to)) = (from, steer(to, texts.1, false, Intent::New)) else { return NOTCAPABLE };
    // SAFETY: as for `rename`.
    let (error, source, target) = unsafe {
        let (table, folders) = (descriptors.table(), descriptors.folders());
        let (a, b) = (source_length as usize, target_length as usize);
        let error = wasmtime_ssp_path_link(environment, table, folders, from, lookup, source, a, to, target, b);
        (i32::from(error), text(source, source_length), text(target, target_length))
    };
    if error != NOTCAPABLE || !HAS_ROOT.load(Ordering::Relaxed) {
        return error;
    }
    let (source, target) = ((from, source, PATH_LINK_SOURCE), (to, target, PATH_LINK_TARGET));
    two_paths(descriptors, source, target, lookup & FOLLOW != 0, |a, b| {
        linkat(&a.parent, &a.name, &b.parent, &b.name, AtFlags::empty())
    })
}

unsafe extern "C" fn symlink(
    environment: Environment,
    target: *const c_char,
    target_length: u32,
    fd: i32,
    path: *const c_char,
    length: u32,
) -> i32 {
    let descriptors = descriptors!(environment);
    // SAFETY: as for `rename`.
    let Some(fd) = steer(fd, unsafe { text(path, length) }, false, Intent::New) else { return NOTCAPABLE };
    // SAFETY: as for `rename`.
    let (error, target, path) = unsafe {
        let (table, folders) = (descriptors.table(), descriptors.folders());
        let (a, b) = (target_length as usize, length as usize);
        let error = wasmtime_ssp_path_symlink(environment, table, folders, target, a, fd, path, b);
        (i32::from(error), text(target, target_length), text(path, length))
    };
    if error == 0 || !HAS_ROOT.load(Ordering::Relaxed) {
        return error;
    }
    match find(descriptors, fd, path, false) {
        Some((rights, _, place)) if rights & PATH_SYMLINK != 0 => {
            place.and_then(|place| symlinkat(target, &place.parent, &place.name)).map_or_else(wasi_number, |()| 0)
        }
        _ => error,
    }
}

/// The functions that take the place of WAMR's own.
pub(super) fn functions() -> [wamr::NativeSymbol; 11] {
    let function = |name: &'static CStr, function: *mut c_void, signature: &'static CStr| wamr::NativeSymbol {
        symbol: name.as_ptr(),
        func_ptr: function,
        signature: signature.as_ptr(),
        attachment: ptr::null_mut(),
    };
    // In WAMR's notation, `*~` is a pointer and the length of what it points to.
    [
        function(c"path_create_directory", create_directory as *mut c_void, c"(i*~)i"),
        function(c"path_remove_directory", remove_directory as *mut c_void, c"(i*~)i"),
        function(c"path_unlink_file", unlink_file as *mut c_void, c"(i*~)i"),
        function(c"path_filestat_get", filestat_get as *mut c_void, c"(ii*~*)i"),
        function(c"path_filestat_set_times", filestat_set_times as *mut c_void, c"(ii*~IIi)i"),
        function(c"path_readlink", readlink as *mut c_void, c"(i*~*~*)i"),
        function(c"path_rename", rename as *mut c_void, c"(i*~i*~)i"),
        function(c"path_link", link as *mut c_void, c"(ii*~i*~)i"),
        function(c"path_symlink", symlink as *mut c_void, c"(*~i*~)i"),
        function(c"fd_close", close as *mut c_void, c"(i)i"),
        function(c"fd_renumber", renumber as *mut c_void, c"(ii)i"),
    ]
}
