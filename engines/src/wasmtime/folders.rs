//! Resolves paths that wasmtime refuses to resolve, for a guest that has all of its process's root: see
//! [`crate::paths`].
//!
//! Functions here replace wasmtime's functions that take a path. They call wasmtime's, and call them once more if
//! wasmtime refuses a path (`not-permitted`). The second call gets the folder in which the kernel finds the target, and
//! the last name. wasmtime still opens, changes and removes by itself, and still checks the folder's permissions.
//! Components get the functions of preview 2 ([`replace`]) and 3 ([`preview3`]), modules those of preview 1
//! ([`preview1`]).
//!
//! When wasmtime is upgraded, a test here tells if an interface or function has another name. The tests of all engines
//! in `test/tests/paths.rs` tell if a path leads elsewhere than that of a native program.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::io::Errno;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, Dir, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as Preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, Host as _, HostDescriptor as _, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{FsError, FsResult};

use super::host::{Either, Host};
use crate::paths::Follow;
use crate::working::{Choice, Intent};
use crate::{Guest, paths, preopens};

pub(super) mod preview1;
pub(super) mod preview3;

/// The interface's name in wasmtime's linker; a test checks it.
const INTERFACE: &str = "wasi:filesystem/types@0.2.12";

/// The place that a path leads to: a folder opened for one call, and a name in it.
pub(super) struct Turned {
    folder: Resource<Descriptor>,
    name: String,
}

impl Turned {
    /// Finds the place of a path that starts in a folder of the table. Returns `None` for anything but a folder; the
    /// caller handles that.
    pub(super) fn find(
        table: &mut ResourceTable,
        base: u32,
        path: &str,
        follow: Follow,
    ) -> wasmtime::Result<Option<std::io::Result<Self>>> {
        let Descriptor::Dir(base) = table.get(&Resource::<Descriptor>::new_borrow(base))? else { return Ok(None) };
        Ok(Some(match locate(base, path, follow) {
            Ok((dir, name)) => Ok(Self { folder: table.push(Descriptor::Dir(dir))?, name }),
            Err(error) => Err(error),
        }))
    }

    /// Lends the folder to a call.
    pub(super) fn folder(&self) -> Resource<Descriptor> {
        Resource::new_borrow(self.folder.rep())
    }

    /// Closes the folder.
    pub(super) fn close(self, table: &mut ResourceTable) -> wasmtime::Result<()> {
        table.delete(self.folder)?;
        Ok(())
    }
}

/// Finds the place of a path that starts in a folder. The found folder has the permissions of the first.
fn locate(base: &Dir, path: &str, follow: Follow) -> std::io::Result<(Dir, String)> {
    let place = paths::locate(base.dir.as_fd(), path.as_bytes(), follow)?;
    let name = place.name.into_string().map_err(|_| Errno::ILSEQ)?;
    let mut dir = base.clone();
    dir.dir = Arc::new(File::from(place.parent));
    Ok((dir, name))
}

impl Either {
    /// Finds the folder for both places among the guest's folders, if the guest has one.
    pub(super) fn of(host: &mut Host, guest: &Guest) -> Option<Self> {
        let working = preopens::working(guest)?;
        let given = Preopens::get_directories(&mut host.filesystem()).ok()?;
        let place = |place: i32| usize::try_from(place).ok();
        let (root, either) = (place(preopens::ROOT)?, place(preopens::EITHER)?);
        let mut folders: Vec<_> = given.into_iter().filter_map(|(entry, _)| host.table.delete(entry).ok()).collect();
        if folders.len() != either + 1 {
            return None;
        }
        let (Descriptor::Dir(either), Descriptor::Dir(root)) = (folders.remove(either), folders.remove(root)) else {
            return None;
        };
        let root = host.table.push(Descriptor::Dir(root)).ok()?;
        Some(Self { working, folder: either.dir, root })
    }
}

/// Returns the folder that a path starts in: the requested folder, or `/` if that folder stands for both and the path
/// means `/`.
///
/// # Errors
/// `EPERM` if nobody knows which file the path means; the error of [`paths::refusal_of_link`].
pub(super) fn steer(host: &Host, fd: u32, path: &str, follow: Follow, intent: Intent) -> Result<u32, Errno> {
    let folder = |fd: u32| match host.table.get(&Resource::<Descriptor>::new_borrow(fd)) {
        Ok(Descriptor::Dir(dir)) => Some(dir),
        _ => None,
    };
    let stands_for_both = |either: &&Either| folder(fd).is_some_and(|dir| Arc::ptr_eq(&dir.dir, &either.folder));
    let fd = match host.either.as_ref().filter(stands_for_both) {
        None => fd,
        Some(either) => match either.working.choose(path.as_bytes(), follow, intent) {
            Choice::Working => fd,
            Choice::Root => either.root.rep(),
            Choice::Unknown => return Err(Errno::PERM),
        },
    };
    check(folder(fd), path.as_bytes(), follow, intent).map(|()| fd)
}

/// Checks that wasmtime may get a path: for a call that changes a name, it would follow a link with a slash behind it.
fn check(folder: Option<&Dir>, path: &[u8], follow: Follow, intent: Intent) -> Result<(), Errno> {
    let folder = folder.filter(|_| follow == Follow::Never);
    match folder.and_then(|folder| paths::refusal_of_link(folder.dir.as_fd(), path, intent == Intent::New)) {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

/// Reads the target of a link. wasmtime does not return an absolute target.
pub(super) fn read_link(
    table: &ResourceTable,
    base: u32,
    path: &str,
) -> wasmtime::Result<Option<std::io::Result<String>>> {
    let Descriptor::Dir(base) = table.get(&Resource::<Descriptor>::new_borrow(base))? else { return Ok(None) };
    let read = || {
        let place = paths::locate(base.dir.as_fd(), path.as_bytes(), Follow::BySlash)?;
        let target = rustix::fs::readlinkat(&place.parent, &place.name, Vec::new())?;
        Ok(target.into_string().map_err(|_| Errno::ILSEQ)?)
    };
    Ok(Some(read()))
}

/// Makes a link. wasmtime makes no absolute one.
pub(super) fn make_link(
    table: &ResourceTable,
    base: u32,
    target: &str,
    path: &str,
) -> wasmtime::Result<Option<std::io::Result<()>>> {
    let Descriptor::Dir(base) = table.get(&Resource::<Descriptor>::new_borrow(base))? else { return Ok(None) };
    if base.perms.write_not_permitted() {
        return Ok(None);
    }
    let make = || {
        let place = paths::locate(base.dir.as_fd(), path.as_bytes(), Follow::Never)?;
        Ok(rustix::fs::symlinkat(target, &place.parent, &place.name)?)
    };
    Ok(Some(make()))
}

/// Returns whether wasmtime refused a path that the guest may use.
fn is_refused<T>(host: &Host, result: &FsResult<T>) -> bool {
    host.has_root && result.as_ref().is_err_and(|error| matches!(error.downcast_ref(), Some(ErrorCode::NotPermitted)))
}

/// Turns an error into the guest's error code.
fn answer<T>(host: &mut Host, result: FsResult<T>) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(host.filesystem().convert_error_code(error)?),
    },))
}

fn code(error: std::io::Error) -> FsError {
    ErrorCode::from(error).into()
}

fn intent(how: OpenFlags) -> Intent {
    match (how.contains(OpenFlags::CREATE), how.contains(OpenFlags::EXCLUSIVE)) {
        (true, true) => Intent::New,
        (true, false) => Intent::Create,
        _ => Intent::Use,
    }
}

/// Turns the error of [`steer`] into the guest's, of either preview.
fn refused<T, E: From<std::io::Error>>(error: Errno) -> Result<T, E> {
    Err(std::io::Error::from(error).into())
}

fn follows(flags: PathFlags) -> Follow {
    Follow::look(flags.contains(PathFlags::SYMLINK_FOLLOW))
}

/// Returns the treatment of a link that is opened. An exclusive open must find no link, so it follows none.
fn of_open(flags: PathFlags, how: OpenFlags) -> Follow {
    Follow::look(flags.contains(PathFlags::SYMLINK_FOLLOW) && !how.contains(OpenFlags::EXCLUSIVE))
}

/// Replaces a function that takes one path. `$before` and `$after` are its other parameters.
macro_rules! one_path {
    ($interface:ident, $name:literal, $method:ident,
     ($($before:ident: $before_type:ty),*), ($($after:ident: $after_type:ty),*), $follow:expr, $intent:expr) => {
        $interface.func_wrap_async(
            concat!("[method]descriptor.", $name),
            |mut store: StoreContextMut<'_, Host>,
             (fd, $($before,)* path, $($after,)*): (
                Resource<Descriptor>, $($before_type,)* String, $($after_type,)*
            )| {
                Box::new(async move {
                    let host = store.data_mut();
                    let base = match steer(host, fd.rep(), &path, $follow, $intent) {
                        Ok(base) => base,
                        Err(error) => return Ok((refused(error),)),
                    };
                    let lent = Resource::new_borrow(base);
                    let mut result =
                        host.filesystem().$method(lent, $($before.clone(),)* path.clone(), $($after.clone(),)*).await;
                    if is_refused(host, &result) {
                        match Turned::find(&mut host.table, base, &path, $follow)? {
                            Some(Ok(turned)) => {
                                let (folder, name) = (turned.folder(), turned.name.clone());
                                result = host.filesystem().$method(folder, $($before,)* name, $($after,)*).await;
                                turned.close(&mut host.table)?;
                            }
                            Some(Err(error)) => result = Err(code(error)),
                            None => {}
                        }
                    }
                    answer(host, result)
                })
            },
        )
    };
}

/// Replaces a function that takes two paths.
macro_rules! two_paths {
    ($interface:ident, $name:literal, $method:ident, ($($before:ident: $before_type:ty),*), $follow:expr, $new:expr) => {
        $interface.func_wrap_async(
            concat!("[method]descriptor.", $name),
            |mut store: StoreContextMut<'_, Host>,
             (from, $($before,)* source, to, target): (
                Resource<Descriptor>, $($before_type,)* String, Resource<Descriptor>, String
            )| {
                Box::new(async move {
                    let host = store.data_mut();
                    let from = steer(host, from.rep(), &source, $follow, Intent::Use);
                    let to = steer(host, to.rep(), &target, Follow::Never, $new);
                    let (from, to) = match (from, to) {
                        (Ok(from), Ok(to)) => (from, to),
                        (Err(error), _) | (_, Err(error)) => return Ok((refused(error),)),
                    };
                    let (lent, other) = (Resource::new_borrow(from), Resource::new_borrow(to));
                    let mut result =
                        host.filesystem().$method(lent, $($before.clone(),)* source.clone(), other, target.clone()).await;
                    if is_refused(host, &result) {
                        match both(&mut host.table, (from, &source), (to, &target), $follow)? {
                            Some(Ok([a, b])) => {
                                let (source, target) = (a.name.clone(), b.name.clone());
                                let (from, to) = (a.folder(), b.folder());
                                result = host.filesystem().$method(from, $($before,)* source, to, target).await;
                                a.close(&mut host.table)?;
                                b.close(&mut host.table)?;
                            }
                            Some(Err(error)) => result = Err(code(error)),
                            None => {}
                        }
                    }
                    answer(host, result)
                })
            },
        )
    };
}

/// Replaces wasmtime's functions of preview 2.
pub(super) fn replace(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut interface = linker.instance(INTERFACE)?;
    one_path!(interface, "create-directory-at", create_directory_at, (), (), Follow::Never, Intent::New)?;
    one_path!(interface, "stat-at", stat_at, (flags: PathFlags), (), follows(flags), Intent::Look)?;
    one_path!(
        interface, "set-times-at", set_times_at,
        (flags: PathFlags), (accessed: NewTimestamp, modified: NewTimestamp), follows(flags), Intent::Use
    )?;
    one_path!(
        interface, "open-at", open_at,
        (flags: PathFlags), (how: OpenFlags, mode: DescriptorFlags),
        of_open(flags, how), intent(how)
    )?;
    one_path!(interface, "remove-directory-at", remove_directory_at, (), (), Follow::Never, Intent::Use)?;
    one_path!(interface, "unlink-file-at", unlink_file_at, (), (), Follow::Never, Intent::Use)?;
    one_path!(interface, "metadata-hash-at", metadata_hash_at, (flags: PathFlags), (), follows(flags), Intent::Look)?;
    interface.func_wrap_async(
        "[method]descriptor.readlink-at",
        |mut store: StoreContextMut<'_, Host>, (fd, path): (Resource<Descriptor>, String)| {
            Box::new(async move {
                let host = store.data_mut();
                let base = steer(host, fd.rep(), &path, Follow::BySlash, Intent::Use);
                let base = match base {
                    Ok(base) => base,
                    Err(error) => return Ok((refused(error),)),
                };
                let mut result = host.filesystem().readlink_at(Resource::new_borrow(base), path.clone()).await;
                if is_refused(host, &result)
                    && let Some(read) = read_link(&host.table, base, &path)?
                {
                    result = read.map_err(code);
                }
                answer(host, result)
            })
        },
    )?;
    interface.func_wrap_async(
        "[method]descriptor.symlink-at",
        |mut store: StoreContextMut<'_, Host>, (fd, target, path): (Resource<Descriptor>, String, String)| {
            Box::new(async move {
                let host = store.data_mut();
                let base = steer(host, fd.rep(), &path, Follow::Never, Intent::New);
                let base = match base {
                    Ok(base) => base,
                    Err(error) => return Ok((refused(error),)),
                };
                let lent = Resource::new_borrow(base);
                let mut result = host.filesystem().symlink_at(lent, target.clone(), path.clone()).await;
                if is_refused(host, &result)
                    && let Some(made) = make_link(&host.table, base, &target, &path)?
                {
                    result = made.map_err(code);
                }
                answer(host, result)
            })
        },
    )?;
    two_paths!(interface, "rename-at", rename_at, (), Follow::Never, Intent::Create)?;
    two_paths!(interface, "link-at", link_at, (flags: PathFlags), follows(flags), Intent::New)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Finds the places of two paths.
pub(super) fn both(
    table: &mut ResourceTable,
    (from, source): (u32, &str),
    (to, target): (u32, &str),
    follow: Follow,
) -> wasmtime::Result<Option<std::io::Result<[Turned; 2]>>> {
    let Some(first) = Turned::find(table, from, source, follow)? else { return Ok(None) };
    let first = match first {
        Ok(first) => first,
        Err(error) => return Ok(Some(Err(error))),
    };
    match Turned::find(table, to, target, Follow::Never)? {
        Some(Ok(second)) => Ok(Some(Ok([first, second]))),
        Some(Err(error)) => {
            first.close(table)?;
            Ok(Some(Err(error)))
        }
        None => {
            first.close(table)?;
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmtime_wasi::{p2, p3};

    use super::super::form::Form;
    use super::super::options::Options;
    use super::*;

    /// The replaced functions exist in wasmtime's own linker, under the same names, in preview 2 and 3.
    #[test]
    fn interfaces_are_those_of_wasmtime() {
        let engine = Options::host().engine(false, Form::Async).unwrap();
        let names = "create-directory-at stat-at set-times-at open-at readlink-at remove-directory-at symlink-at \
            unlink-file-at metadata-hash-at rename-at link-at";
        for interface in [INTERFACE, preview3::INTERFACE] {
            for name in names.split_whitespace() {
                let mut linker = Linker::<Host>::new(&engine);
                p2::add_to_linker_async(&mut linker).unwrap();
                p3::add_to_linker(&mut linker).unwrap();
                let name = format!("[method]descriptor.{name}");
                let defined = linker.instance(interface).unwrap().func_wrap(&name, |_, ()| Ok(()));
                assert!(defined.is_err(), "wasmtime has no {name} in {interface}");
            }
        }
    }
}
