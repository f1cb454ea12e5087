//! The functions of preview 3 that take a path.

use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p3::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, HostDescriptorWithStore, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p3::filesystem::FilesystemResult;

use super::super::host::Host;
use super::{Turned, both, make_link, read_link, refused, steer};
use crate::paths::Follow;
use crate::working::Intent;

/// The interface's name in wasmtime's linker; a test checks it.
pub(super) const INTERFACE: &str = "wasi:filesystem/types@0.3.0";

/// Returns whether wasmtime refused a path that the guest may use.
fn is_refused<T>(accessor: &Accessor<Host>, result: &FilesystemResult<T>) -> bool {
    accessor.with(|mut host| host.get().has_root)
        && result.as_ref().is_err_and(|error| matches!(error.downcast_ref(), Some(ErrorCode::NotPermitted)))
}

/// Turns an error into the guest's error code.
fn answer<T>(result: FilesystemResult<T>) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

fn intent(how: OpenFlags) -> Intent {
    match (how.contains(OpenFlags::CREATE), how.contains(OpenFlags::EXCLUSIVE)) {
        (true, true) => Intent::New,
        (true, false) => Intent::Create,
        _ => Intent::Use,
    }
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
        $interface.func_wrap_concurrent(
            concat!("[method]descriptor.", $name),
            |accessor: &Accessor<Host>,
             (fd, $($before,)* path, $($after,)*): (
                Resource<Descriptor>, $($before_type,)* String, $($after_type,)*
            )| {
                Box::pin(async move {
                    let own = accessor.with_getter::<WasiFilesystem>(Host::filesystem);
                    let base = accessor.with(|mut host| steer(host.get(), fd.rep(), &path, $follow, $intent));
                    let base = match base {
                        Ok(base) => base,
                        Err(error) => return Ok((refused(error),)),
                    };
                    let lent = Resource::new_borrow(base);
                    let call = <WasiFilesystem as HostDescriptorWithStore<Host>>::$method;
                    let mut result = call(&own, lent, $($before.clone(),)* path.clone(), $($after.clone(),)*).await;
                    if is_refused(accessor, &result) {
                        let find = |table: &mut _| Turned::find(table, base, &path, $follow);
                        match accessor.with(|mut host| find(&mut host.get().table))? {
                            Some(Ok(turned)) => {
                                let (folder, name) = (turned.folder(), turned.name.clone());
                                result = call(&own, folder, $($before,)* name, $($after,)*).await;
                                accessor.with(|mut host| turned.close(&mut host.get().table))?;
                            }
                            Some(Err(error)) => result = Err(ErrorCode::from(error).into()),
                            None => {}
                        }
                    }
                    answer(result)
                })
            },
        )
    };
}

/// Replaces a function that takes two paths.
macro_rules! two_paths {
    ($interface:ident, $name:literal, $method:ident, ($($before:ident: $before_type:ty),*), $follow:expr, $new:expr) => {
        $interface.func_wrap_concurrent(
            concat!("[method]descriptor.", $name),
            |accessor: &Accessor<Host>,
             (from, $($before,)* source, to, target): (
                Resource<Descriptor>, $($before_type,)* String, Resource<Descriptor>, String
            )| {
                Box::pin(async move {
                    let own = accessor.with_getter::<WasiFilesystem>(Host::filesystem);
                    let (from, to) = accessor.with(|mut host| {
                        let host = host.get();
                        let from = steer(host, from.rep(), &source, $follow, Intent::Use);
                        (from, steer(host, to.rep(), &target, Follow::Never, $new))
                    });
                    let (from, to) = match (from, to) {
                        (Ok(from), Ok(to)) => (from, to),
                        (Err(error), _) | (_, Err(error)) => return Ok((refused(error),)),
                    };
                    let call = <WasiFilesystem as HostDescriptorWithStore<Host>>::$method;
                    let lend = Resource::new_borrow;
                    let mut result =
                        call(&own, lend(from), $($before.clone(),)* source.clone(), lend(to), target.clone()).await;
                    if is_refused(accessor, &result) {
                        let find = |table: &mut _| both(table, (from, &source), (to, &target), $follow);
                        match accessor.with(|mut host| find(&mut host.get().table))? {
                            Some(Ok([a, b])) => {
                                let (source, target) = (a.name.clone(), b.name.clone());
                                result = call(&own, a.folder(), $($before,)* source, b.folder(), target).await;
                                accessor.with(|mut host| {
                                    let table = &mut host.get().table;
                                    a.close(table).and(b.close(table))
                                })?;
                            }
                            Some(Err(error)) => result = Err(ErrorCode::from(error).into()),
                            None => {}
                        }
                    }
                    answer(result)
                })
            },
        )
    };
}

/// Replaces wasmtime's functions of preview 3.
pub(in super::super) fn replace(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
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
    interface.func_wrap_concurrent(
        "[method]descriptor.readlink-at",
        |accessor: &Accessor<Host>, (fd, path): (Resource<Descriptor>, String)| {
            Box::pin(async move {
                let own = accessor.with_getter::<WasiFilesystem>(Host::filesystem);
                let base = accessor.with(|mut host| steer(host.get(), fd.rep(), &path, Follow::BySlash, Intent::Use));
                let base = match base {
                    Ok(base) => base,
                    Err(error) => return Ok((refused(error),)),
                };
                let lent = Resource::new_borrow(base);
                let call = <WasiFilesystem as HostDescriptorWithStore<Host>>::readlink_at;
                let mut result = call(&own, lent, path.clone()).await;
                if is_refused(accessor, &result)
                    && let Some(read) = accessor.with(|mut host| read_link(&host.get().table, base, &path))?
                {
                    result = read.map_err(|error| ErrorCode::from(error).into());
                }
                answer(result)
            })
        },
    )?;
    interface.func_wrap_concurrent(
        "[method]descriptor.symlink-at",
        |accessor: &Accessor<Host>, (fd, target, path): (Resource<Descriptor>, String, String)| {
            Box::pin(async move {
                let own = accessor.with_getter::<WasiFilesystem>(Host::filesystem);
                let base = accessor.with(|mut host| steer(host.get(), fd.rep(), &path, Follow::Never, Intent::New));
                let base = match base {
                    Ok(base) => base,
                    Err(error) => return Ok((refused(error),)),
                };
                let lent = Resource::new_borrow(base);
                let call = <WasiFilesystem as HostDescriptorWithStore<Host>>::symlink_at;
                let mut result = call(&own, lent, target.clone(), path.clone()).await;
                if is_refused(accessor, &result)
                    && let Some(made) = accessor.with(|mut host| make_link(&host.get().table, base, &target, &path))?
                {
                    result = made.map_err(|error| ErrorCode::from(error).into());
                }
                answer(result)
            })
        },
    )?;
    two_paths!(interface, "rename-at", rename_at, (), Follow::Never, Intent::Create)?;
    two_paths!(interface, "link-at", link_at, (flags: PathFlags), follows(flags), Intent::New)?;
    linker.allow_shadowing(false);
    Ok(())
}
