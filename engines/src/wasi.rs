//! WASI preview 1 for the engines that run modules and have no library for it in Rust that can be told where a path leads.
//!
//! What such an engine brings resolves paths by itself, and each does so in a way of its own. Here each path is resolved by the kernel: see
//! [`crate::paths`] and [`crate::working`]. A guest's descriptors are those of the process, so what a guest does to a file is there at once,
//! and what it is told of a file is what the kernel says.
//!
//! Rights are kept as far as they matter: those that a guest gives up are lost, and in a read-only folder nothing has the right to change
//! anything. What a library does not ask for when it opens a file it has all the same, for libraries ask for too little or too much; whether
//! a file can be read and written follows from what is asked for.

mod descriptors;
mod errors;
mod files;
mod listing;
mod memory;
mod names;
mod polling;
mod process;
mod stats;

use std::path::Path;

use self::descriptors::{Descriptor, Table};
pub(crate) use self::errors::Number;
pub(crate) use self::memory::Memory;
use crate::paths;
use crate::preopens::{self, Folder};
use crate::working::Working;
use crate::{Guest, RunError, preview1};

/// A function of WASI's: the guest's memory, and its arguments as they come.
pub(crate) type Call = fn(&mut Wasi, &mut Memory<'_>, &[u64]) -> Result<(), Number>;

/// What a guest has of WASI.
#[derive(Debug)]
pub(crate) struct Wasi {
    /// What the guest is started with, each text with a zero byte behind.
    args: Vec<Vec<u8>>,
    env: Vec<Vec<u8>>,
    table: Table,
    /// The guest has all of the process's root.
    has_root: bool,
    /// Where paths lead that may start in either of two folders.
    working: Option<Working>,
}

impl Wasi {
    /// Opens a guest's folders.
    ///
    /// # Errors
    /// [`RunError::Setup`] names the folder that cannot be opened. Folders that a guest can do without are left out.
    pub(crate) fn new(guest: &Guest) -> Result<Self, RunError> {
        let working = preopens::working(guest);
        let mut table = Table::with_streams();
        let folders = preopens::told_apart(guest);
        for (number, folder) in folders.iter().enumerate() {
            match Descriptor::given(&folder.host, folder.guest.clone(), folder.read_only) {
                Ok(mut given) => {
                    given.either = working.is_some() && i32::try_from(number) == Ok(preopens::EITHER);
                    table.insert(given)?;
                }
                Err(error) if folder.required => return Err(refused(folder, &error.to_string())),
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

    /// Calls a function; returns WASI's number.
    pub(crate) fn call(&mut self, call: Call, memory: &mut [u8], arguments: &[u64]) -> i32 {
        match call(self, &mut Memory::new(memory), arguments) {
            Ok(()) => 0,
            Err(number) => number.into(),
        }
    }
}

impl From<Number> for RunError {
    fn from(number: Number) -> Self {
        setup(format!("too many folders (WASI error {})", i32::from(number)))
    }
}

/// Lists the functions with their parameters, as [`preview1::FUNCTIONS`] writes them. `proc_exit` is left to the engines, for each leaves a
/// guest in its own way.
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

/// Takes arguments as they come.
fn longs<const N: usize>(arguments: &[u64]) -> [u64; N] {
    std::array::from_fn(|index| arguments.get(index).copied().unwrap_or_default())
}

/// Takes the 32 bits that an argument has.
fn low(argument: u64) -> u32 {
    argument as u32
}

/// Says that a folder cannot be given to a guest.
fn refused(folder: &Folder, reason: &str) -> RunError {
    setup(format!("folder {} as {:?}: {reason}", Path::new(&folder.host).display(), folder.guest))
}

/// Says why a guest cannot be set up.
pub(crate) fn setup(reason: String) -> RunError {
    RunError::Setup { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each function that a guest may import is there, but for the one that engines have themselves.
    #[test]
    fn functions_are_complete() {
        let missing: Vec<&str> =
            preview1::FUNCTIONS.iter().map(|(name, ..)| *name).filter(|name| function(name).is_none()).collect();
        assert_eq!(missing, ["proc_exit"]);
    }
}
