//! The functions of preview 1 that take a path.
//!
//! wasmtime numbers a module's descriptors by itself, and does not say which file a number stands for. But it keeps the
//! files in a readable table, where each new file gets the next entry. So this module notes the entry of each number
//! when the guest opens it. A second call replaces the entry of the guest's folder, for the time of the call, by the
//! folder that was found. If an entry turns out to be something else, it stays unchanged, and the first answer stands.

mod numbers;

use wasmtime::{AsContextMut as _, Caller, Extern, Linker};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::filesystem::WasiFilesystemView as _;
use wasmtime_wasi::p1::types::Errno;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as wasi, WasiSnapshotPreview1 as _};
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::{ErrorCode, HostDescriptor as _, PathFlags};
use wiggle::GuestMemory;

use super::super::host::ModuleHost;
use super::both;
use crate::paths::Follow;
use crate::preopens;
use crate::working::{Choice, Intent};

const MODULE: &str = "wasi_snapshot_preview1";
/// The error of a refused path.
const PERM: i32 = Errno::Perm as i32;
const BADF: i32 = Errno::Badf as i32;
const FAULT: i32 = Errno::Fault as i32;
/// The number of the first folder.
const FOLDERS: i32 = 3;
/// The numbers of `/`, and of the folder that stands for both `/` and a different working directory.
const ROOT: i32 = FOLDERS + preopens::ROOT;
const EITHER: i32 = FOLDERS + preopens::EITHER;
/// The flag to follow a link at the end of a path. Then the flags to make a file, and to require a new one.
const FOLLOW: i32 = 1;
const CREATE: i32 = 1;
const EXCLUSIVE: i32 = 1 << 2;
/// Size of a result in the memory of a second call, in bytes; the longest is a `filestat`.
const RESULT: usize = 64;

fn errno(code: ErrorCode) -> Errno {
    Errno::from(code)
}

/// Calls a function of wasmtime with the guest's memory.
macro_rules! with_guest {
    ($caller:ident, $function:ident($($argument:expr),*)) => {{
        let fuel = $caller.as_context_mut().hostcall_fuel();
        match $caller.get_export("memory") {
            Some(Extern::Memory(memory)) => {
                let (bytes, host) = memory.data_and_store_mut(&mut $caller);
                host.wasi.set_hostcall_fuel(fuel);
                wasi::$function(&mut host.wasi, &mut GuestMemory::Unshared(bytes), $($argument),*).await
            }
            Some(Extern::SharedMemory(memory)) => {
                let host = $caller.data_mut();
                host.wasi.set_hostcall_fuel(fuel);
                wasi::$function(&mut host.wasi, &mut GuestMemory::Shared(memory.data()), $($argument),*).await
            }
            _ => wasmtime::bail!("missing required memory export"),
        }
    }};
}

/// Calls a function of wasmtime with memory of its own.
macro_rules! with_own {
    ($caller:ident, $memory:ident, $function:ident($($argument:expr),*)) => {{
        let fuel = $caller.as_context_mut().hostcall_fuel();
        let host = $caller.data_mut();
        host.wasi.set_hostcall_fuel(fuel);
        wasi::$function(&mut host.wasi, &mut GuestMemory::Unshared(&mut $memory), $($argument),*).await
    }};
}

/// Reads bytes of the guest's memory, at most as many as a path may have.
fn read(caller: &mut Caller<'_, ModuleHost>, at: i32, length: i32) -> Option<Vec<u8>> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else { return None };
    let (at, length) = (at.cast_unsigned() as usize, length.cast_unsigned() as usize);
    let bytes = memory.data(caller).get(at..at.checked_add(length)?)?;
    (length <= crate::paths::LONGEST).then(|| bytes.to_vec())
}

/// Writes bytes to the guest's memory.
fn write(caller: &mut Caller<'_, ModuleHost>, at: i32, bytes: &[u8]) -> i32 {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else { return FAULT };
    match memory.write(caller, at.cast_unsigned() as usize, bytes) {
        Ok(()) => 0,
        Err(_) => FAULT,
    }
}

/// Returns the folder that a path starts in: the requested folder, or `/` if that folder stands for both and the path
/// means `/`.
///
/// # Errors
/// WASI's error number, if nobody knows which file the path means, or wasmtime must not get the path ([`super::check`]).
fn steer(
    caller: &mut Caller<'_, ModuleHost>,
    fd: i32,
    (path, length): (i32, i32),
    follow: Follow,
    intent: Intent,
) -> Result<i32, i32> {
    let stands_for_both = fd == EITHER && caller.data().working.is_some();
    if !stands_for_both && follow != Follow::Never {
        return Ok(fd);
    }
    let Some(path) = read(caller, path, length) else { return Ok(fd) };
    let host = caller.data_mut();
    let fd = match host.working.as_ref().filter(|_| stands_for_both) {
        None => fd,
        Some(working) => match working.choose(&path, follow, intent) {
            Choice::Working => fd,
            Choice::Root => ROOT,
            Choice::Unknown => return Err(Errno::Notcapable as i32),
        },
    };
    super::check(host.folder(fd), &path, follow, intent).map_err(|error| {
        let error: ErrorCode = std::io::Error::from(error).into();
        errno(error) as i32
    })?;
    Ok(fd)
}

/// Returns from a function with an error of [`steer`].
macro_rules! steered {
    ($caller:ident, $fd:ident, $path:expr, $follow:expr, $intent:expr) => {
        match steer(&mut $caller, $fd, $path, $follow, $intent) {
            Ok(fd) => fd,
            Err(error) => return Ok(error),
        }
    };
}

/// Returns whether wasmtime refused a path that the guest may use.
fn is_refused(caller: &Caller<'_, ModuleHost>, error: i32) -> bool {
    error == PERM && caller.data().has_root
}

/// Lays out the memory of a second call: room for a result, then the texts. Returns the memory, and the address and
/// length of each text.
fn lay_out<const N: usize>(texts: [&[u8]; N], room: usize) -> (Vec<u8>, [(i32, i32); N]) {
    let mut memory = vec![0; room];
    let places = texts.map(|text| {
        let at = memory.len();
        memory.extend_from_slice(text);
        (number(at), number(text.len()))
    });
    (memory, places)
}

fn number(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Defines a function that takes one path and returns only an error.
macro_rules! plain {
    ($linker:ident, $function:ident, ($($before:ident: $before_type:ty),*), ($($after:ident: $after_type:ty),*),
     $follow:expr, $intent:expr) => {
        $linker.func_wrap_async(
            MODULE,
            stringify!($function),
            |mut caller: Caller<'_, ModuleHost>,
             (fd, $($before,)* path, length, $($after,)*): (i32, $($before_type,)* i32, i32, $($after_type,)*)| {
                Box::new(async move {
                    let fd = steered!(caller, fd, (path, length), $follow, $intent);
                    let error = with_guest!(caller, $function(fd, $($before,)* path, length $(, $after)*))?;
                    if !is_refused(&caller, error) {
                        return Ok(error);
                    }
                    let Some(text) = read(&mut caller, path, length) else { return Ok(error) };
                    match caller.data_mut().turn(fd, &text, $follow) {
                        None => Ok(error),
                        Some(Err(errno)) => Ok(errno as i32),
                        Some(Ok((own, name))) => {
                            let (mut memory, [(at, length)]) = lay_out([name.as_bytes()], RESULT);
                            let answer = with_own!(caller, memory, $function(fd, $($before,)* at, length $(, $after)*));
                            caller.data_mut().turn_back(fd, own)?;
                            answer
                        }
                    }
                })
            },
        )
    };
}

/// Replaces wasmtime's functions.
pub(in super::super) fn replace(linker: &mut Linker<ModuleHost>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    plain!(linker, path_create_directory, (), (), Follow::Never, Intent::New)?;
    plain!(linker, path_remove_directory, (), (), Follow::Never, Intent::Use)?;
    plain!(linker, path_unlink_file, (), (), Follow::Never, Intent::Use)?;
    plain!(
        linker, path_filestat_set_times,
        (lookup: i32), (accessed: i64, modified: i64, which: i32), Follow::look(lookup & FOLLOW != 0), Intent::Use
    )?;
    open(linker)?;
    stat(linker)?;
    links(linker)?;
    two_paths(linker)?;
    numbers(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn open(linker: &mut Linker<ModuleHost>) -> wasmtime::Result<()> {
    type Arguments = (i32, i32, i32, i32, i32, i64, i64, i32, i32);
    linker
        .func_wrap_async(
            MODULE,
            "path_open",
            |mut caller: Caller<'_, ModuleHost>,
             (fd, lookup, path, length, how, base, inheriting, flags, opened): Arguments| {
                Box::new(async move {
                    let intent = match (how & CREATE != 0, how & EXCLUSIVE != 0) {
                        (true, true) => Intent::New,
                        (true, false) => Intent::Create,
                        _ => Intent::Use,
                    };
                    let follow = Follow::look(lookup & FOLLOW != 0 && how & EXCLUSIVE == 0);
                    let fd = steered!(caller, fd, (path, length), follow, intent);
                    let entry = caller.data_mut().next_entry()?;
                    let mut error =
                        with_guest!(caller, path_open(fd, lookup, path, length, how, base, inheriting, flags, opened))?;
                    let text = if is_refused(&caller, error) { read(&mut caller, path, length) } else { None };
                    match text.and_then(|text| caller.data_mut().turn(fd, &text, follow)) {
                        None => {}
                        Some(Err(errno)) => error = errno as i32,
                        Some(Ok((own, name))) => {
                            let (mut memory, [(at, length)]) = lay_out([name.as_bytes()], RESULT);
                            let answer = with_own!(
                                caller,
                                memory,
                                path_open(fd, lookup, at, length, how, base, inheriting, flags, 0)
                            );
                            caller.data_mut().turn_back(fd, own)?;
                            error = answer?;
                            if error == 0 {
                                error = write(&mut caller, opened, &memory[..4]);
                            }
                        }
                    }
                    if error == 0
                        && let Some(number) = read(&mut caller, opened, 4).and_then(|bytes| bytes.try_into().ok())
                    {
                        caller.data_mut().numbers.0.insert(i32::from_le_bytes(number), entry);
                    }
                    Ok(error)
                })
            },
        )
        .map(drop)
}

fn stat(linker: &mut Linker<ModuleHost>) -> wasmtime::Result<()> {
    linker
        .func_wrap_async(
            MODULE,
            "path_filestat_get",
            |mut caller: Caller<'_, ModuleHost>, (fd, lookup, path, length, found): (i32, i32, i32, i32, i32)| {
                Box::new(async move {
                    let follow = Follow::look(lookup & FOLLOW != 0);
                    let fd = steered!(caller, fd, (path, length), follow, Intent::Look);
                    let error = with_guest!(caller, path_filestat_get(fd, lookup, path, length, found))?;
                    let text = if is_refused(&caller, error) { read(&mut caller, path, length) } else { None };
                    match text.and_then(|text| caller.data_mut().turn(fd, &text, follow)) {
                        None => Ok(error),
                        Some(Err(errno)) => Ok(errno as i32),
                        Some(Ok((own, name))) => {
                            let (mut memory, [(at, length)]) = lay_out([name.as_bytes()], RESULT);
                            let answer = with_own!(caller, memory, path_filestat_get(fd, lookup, at, length, 0));
                            caller.data_mut().turn_back(fd, own)?;
                            Ok(match answer? {
                                0 => write(&mut caller, found, &memory[..RESULT]),
                                error => error,
                            })
                        }
                    }
                })
            },
        )
        .map(drop)
}

fn links(linker: &mut Linker<ModuleHost>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "path_readlink",
        |mut caller: Caller<'_, ModuleHost>, (fd, path, length, target, room, used): (i32, i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let fd = steered!(caller, fd, (path, length), Follow::BySlash, Intent::Use);
                let error = with_guest!(caller, path_readlink(fd, path, length, target, room, used))?;
                if !is_refused(&caller, error) {
                    return Ok(error);
                }
                let Some((path, entry, table)) = start(&mut caller, fd, (path, length)) else { return Ok(error) };
                let found = match super::read_link(table, entry, &path)? {
                    None => return Ok(error),
                    Some(Err(error)) => return Ok(errno(error.into()) as i32),
                    Some(Ok(found)) => found,
                };
                let size = found.len().min(room.cast_unsigned() as usize);
                Ok(match write(&mut caller, target, &found.as_bytes()[..size]) {
                    0 => write(&mut caller, used, &number(size).to_le_bytes()),
                    error => error,
                })
            })
        },
    )?;
    linker
        .func_wrap_async(
            MODULE,
            "path_symlink",
            |mut caller: Caller<'_, ModuleHost>,
             (target, target_length, fd, path, length): (i32, i32, i32, i32, i32)| {
                Box::new(async move {
                    let fd = steered!(caller, fd, (path, length), Follow::Never, Intent::New);
                    let error = with_guest!(caller, path_symlink(target, target_length, fd, path, length))?;
                    if !is_refused(&caller, error) {
                        return Ok(error);
                    }
                    let target = read(&mut caller, target, target_length).and_then(|text| String::from_utf8(text).ok());
                    let Some(target) = target else { return Ok(error) };
                    let Some((path, entry, table)) = start(&mut caller, fd, (path, length)) else { return Ok(error) };
                    Ok(match super::make_link(table, entry, &target, &path)? {
                        None => error,
                        Some(Err(error)) => errno(error.into()) as i32,
                        Some(Ok(())) => 0,
                    })
                })
            },
        )
        .map(drop)
}

/// Reads a path, and finds the entry of the folder that it starts from.
fn start<'a>(
    caller: &'a mut Caller<'_, ModuleHost>,
    fd: i32,
    (path, length): (i32, i32),
) -> Option<(String, u32, &'a wasmtime_wasi::ResourceTable)> {
    let path = String::from_utf8(read(caller, path, length)?).ok()?;
    let host = caller.data_mut();
    let entry = *host.numbers.0.get(&fd)?;
    Some((path, entry, host.wasi.ctx().table))
}

/// The arguments of a call that links or renames a file.
struct Pair {
    from: i32,
    source: (i32, i32),
    to: i32,
    target: (i32, i32),
    /// Flags of the first path, for a link.
    follow: Option<bool>,
}

/// Links or renames in the folders that the paths lead to; `None` if a number is unknown.
async fn pair(caller: &mut Caller<'_, ModuleHost>, pair: Pair) -> wasmtime::Result<Option<i32>> {
    let source = read(caller, pair.source.0, pair.source.1).and_then(|path| String::from_utf8(path).ok());
    let target = read(caller, pair.target.0, pair.target.1).and_then(|path| String::from_utf8(path).ok());
    let host = caller.data_mut();
    let entries = (host.numbers.0.get(&pair.from).copied(), host.numbers.0.get(&pair.to).copied());
    let (Some(source), Some(target), (Some(from), Some(to))) = (source, target, entries) else { return Ok(None) };
    let follow = pair.follow.map_or(Follow::Never, Follow::look);
    let found = both(host.wasi.ctx().table, (from, &source), (to, &target), follow)?;
    let [a, b] = match found {
        None => return Ok(None),
        Some(Err(error)) => return Ok(Some(errno(error.into()) as i32)),
        Some(Ok(found)) => found,
    };
    let (source, target, from, to) = (a.name.clone(), b.name.clone(), a.folder(), b.folder());
    let done: FsResult<()> = match pair.follow {
        None => host.wasi.filesystem().rename_at(from, source, to, target).await,
        Some(_) => host.wasi.filesystem().link_at(from, PathFlags::empty(), source, to, target).await,
    };
    a.close(host.wasi.ctx().table)?;
    b.close(host.wasi.ctx().table)?;
    Ok(Some(match done {
        Ok(()) => 0,
        Err(error) => errno(error.downcast()?) as i32,
    }))
}

fn two_paths(linker: &mut Linker<ModuleHost>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "path_rename",
        |mut caller: Caller<'_, ModuleHost>,
         (from, source, source_length, to, target, target_length): (i32, i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let from = steered!(caller, from, (source, source_length), Follow::Never, Intent::Use);
                let to = steered!(caller, to, (target, target_length), Follow::Never, Intent::Create);
                let error = with_guest!(caller, path_rename(from, source, source_length, to, target, target_length))?;
                if !is_refused(&caller, error) {
                    return Ok(error);
                }
                let (source, target) = ((source, source_length), (target, target_length));
                Ok(pair(&mut caller, Pair { from, source, to, target, follow: None }).await?.unwrap_or(error))
            })
        },
    )?;
    type Arguments = (i32, i32, i32, i32, i32, i32, i32);
    linker
        .func_wrap_async(
            MODULE,
            "path_link",
            |mut caller: Caller<'_, ModuleHost>,
             (from, lookup, source, source_length, to, target, target_length): Arguments| {
                Box::new(async move {
                    let follow = lookup & FOLLOW != 0;
                    let from = steered!(caller, from, (source, source_length), Follow::look(follow), Intent::Use);
                    let to = steered!(caller, to, (target, target_length), Follow::Never, Intent::New);
                    let error =
                        with_guest!(caller, path_link(from, lookup, source, source_length, to, target, target_length))?;
                    if !is_refused(&caller, error) {
                        return Ok(error);
                    }
                    let (source, target) = ((source, source_length), (target, target_length));
                    let follow = Some(follow);
                    Ok(pair(&mut caller, Pair { from, source, to, target, follow }).await?.unwrap_or(error))
                })
            },
        )
        .map(drop)
}

/// Replaces the functions that change which file a number stands for.
fn numbers(linker: &mut Linker<ModuleHost>) -> wasmtime::Result<()> {
    linker.func_wrap_async(MODULE, "fd_close", |mut caller: Caller<'_, ModuleHost>, (fd,): (i32,)| {
        Box::new(async move {
            let error = with_guest!(caller, fd_close(fd))?;
            if error != BADF {
                caller.data_mut().forget(fd);
            }
            Ok(error)
        })
    })?;
    linker
        .func_wrap_async(MODULE, "fd_renumber", |mut caller: Caller<'_, ModuleHost>, (from, to): (i32, i32)| {
            Box::new(async move {
                let error = with_guest!(caller, fd_renumber(from, to))?;
                if error == 0 && from != to {
                    let host = caller.data_mut();
                    let entry = host.numbers.0.get(&from).copied();
                    host.forget(from);
                    host.forget(to);
                    if let Some(entry) = entry {
                        host.numbers.0.insert(to, entry);
                    }
                }
                Ok(error)
            })
        })
        .map(drop)
}
