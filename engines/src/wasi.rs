//! WASI preview 1 for the engines that run modules, and have no Rust library for WASI that accepts resolved paths.
//!
//! The WASI libraries of these engines resolve paths themselves, each in its own way. Here the kernel resolves each path:
//! see [`crate::paths`] and [`crate::working`]. A guest's descriptors are those of the process. So a guest's change to
//! a file is visible at once, and the kernel provides all facts about a file.
//!
//! Rights apply as far as they matter. A guest loses the rights that it gives up. In a read-only folder nothing has the
//! right to change anything. A library that opens a file also gets rights that it does not ask for, because libraries
//! ask for too few or too many. The requested rights decide only whether the file can be read and written.

mod descriptors;
mod errors;
mod files;
mod listing;
mod memory;
mod names;
mod polling;
mod process;
mod stats;

use self::descriptors::{Descriptor, Table};
pub(crate) use self::errors::Number;
pub(crate) use self::memory::Memory;
use crate::paths;
use crate::preopens;
use crate::working::Working;
use crate::{Guest, RunError, preview1};

/// A function of WASI. It takes the guest's memory, and the raw arguments.
pub(crate) type Call = fn(&mut Wasi, &mut Memory<'_>, &[u64]) -> Result<(), Number>;

/// A guest's WASI state.
#[derive(Debug)]
pub(crate) struct Wasi {
    /// Arguments of the guest, and below its environment. A zero byte ends each text.
    args: Vec<Vec<u8>>,
    env: Vec<Vec<u8>>,
    table: Table,
    /// The guest has all of the process's root.
    has_root: bool,
    /// The resolver of paths that may start in either of two folders.
    working: Option<Working>,
}

impl Wasi {
    /// Opens a guest's folders.
    ///
    /// # Errors
    /// [`RunError::Setup`] names the folder that cannot be opened. A folder that the guest can do without is left out
    /// instead.
    pub(crate) fn new(guest: &Guest) -> Result<Self, RunError> {
        let working = preopens::working(guest);
        let mut table = Table::with_streams();
        let folders = preopens::told_apart(guest);
        for (number, folder) in folders.iter().enumerate() {
            match Descriptor::given(&folder.host, folder.guest.clone(), folder.read_only) {
                Ok(mut given) => {
                    given.either = working.is_some() && i32::try_from(number) == Ok(preopens::EITHER);
                    table.insert(given).map_err(|_| folder.refused("there are too many folders"))?;
                }
                Err(error) if folder.required => return Err(folder.refused(&error.to_string())),
                Err(_) => {}
            }
        }
        let text = |text: &str| [text.as_bytes(), b"\0"].concat();
        Ok(Self {
            args: guest.args.iter().map(|arg| text(arg)).collect(),
            env: guest.env.iter().map(|(name, value)| text(&format!("{name}={value}"))).collect(),
            table,
            has_root: paths::has_root(&guest.preopens),
            working,
        })
    }

    /// Calls a function; returns WASI's error number, or 0.
    pub(crate) fn call(&mut self, call: Call, memory: &mut [u8], arguments: &[u64]) -> i32 {
        match call(self, &mut Memory::new(memory), arguments) {
            Ok(()) => 0,
            Err(number) => number.into(),
        }
    }
}

/// Lists the functions with their parameters, as [`preview1::FUNCTIONS`] writes them. `proc_exit` is missing, because
/// each engine leaves a guest in its own way.
pub(crate) fn functions() -> impl Iterator<Item = (&'static str, &'static str, Call)> {
    preview1::FUNCTIONS.into_iter().filter_map(|(name, parameters, _)| Some((name, parameters, function(name)?)))
}

fn function(name: &str) -> Option<Call> {
    Some(match name {
        "args_get" => process::args_get,
        "args_sizes_get" => process::args_sizes_get,
        "clock_res_get" => process::clock_res_get,
        "clock_time_get" => process::clock_time_get,
        "environ_get" => process::environ_get,
        "environ_sizes_get" => process::environ_sizes_get,
        "fd_advise" => files::advise,
        "fd_allocate" => files::allocate,
        "fd_close" => descriptors::close,
        "fd_datasync" => files::datasync,
        "fd_fdstat_get" => descriptors::fdstat_get,
        "fd_fdstat_set_flags" => descriptors::fdstat_set_flags,
        "fd_fdstat_set_rights" => descriptors::fdstat_set_rights,
        "fd_filestat_get" => stats::get,
        "fd_filestat_set_size" => files::set_size,
        "fd_filestat_set_times" => stats::set_times,
        "fd_pread" => files::pread,
        "fd_prestat_dir_name" => descriptors::prestat_dir_name,
        "fd_prestat_get" => descriptors::prestat_get,
        "fd_pwrite" => files::pwrite,
        "fd_read" => files::read,
        "fd_readdir" => listing::readdir,
        "fd_renumber" => descriptors::renumber,
        "fd_seek" => files::seek,
        "fd_sync" => files::sync,
        "fd_tell" => files::tell,
        "fd_write" => files::write,
        "path_create_directory" => names::create_directory,
        "path_filestat_get" => stats::of_path,
        "path_filestat_set_times" => stats::set_times_of_path,
        "path_link" => names::link,
        "path_open" => names::open,
        "path_readlink" => names::readlink,
        "path_remove_directory" => names::remove_directory,
        "path_rename" => names::rename,
        "path_symlink" => names::symlink,
        "path_unlink_file" => names::unlink_file,
        "poll_oneoff" => polling::poll_oneoff,
        "proc_raise" => process::raise,
        "random_get" => process::random_get,
        "sched_yield" => process::sched_yield,
        "sock_accept" | "sock_recv" | "sock_send" | "sock_shutdown" => descriptors::no_socket,
        _ => return None,
    })
}

/// Takes arguments that are all 32 bits wide.
fn words<const N: usize>(arguments: &[u64]) -> [u32; N] {
    longs(arguments).map(low)
}

/// Takes raw arguments, 64 bits wide.
fn longs<const N: usize>(arguments: &[u64]) -> [u64; N] {
    std::array::from_fn(|index| arguments.get(index).copied().unwrap_or_default())
}

/// Returns the low 32 bits of an argument.
fn low(argument: u64) -> u32 {
    argument as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each function that a guest may import exists, except the one that the engines define themselves.
    #[test]
    fn functions_are_complete() {
        let missing: Vec<&str> =
            preview1::FUNCTIONS.iter().map(|(name, ..)| *name).filter(|name| function(name).is_none()).collect();
        assert_eq!(missing, ["proc_exit"]);
    }
}
