//! The functions of WASI preview 1 and their types: all that a guest may import.
//!
//! They stand here, so that imports can be checked in the sandbox of the compiler without setting up WASI there. A test
//! compares them with those that wasmer's WASI offers.

/// Name of the module that all of them are imported from.
pub(super) const MODULE: &str = "wasi_snapshot_preview1";

/// Name, parameters and results of each function: `i` is a 32-bit integer, `I` a 64-bit one.
const FUNCTIONS: [(&str, &str, &str); 46] = [
    ("args_get", "ii", "i"),
    ("args_sizes_get", "ii", "i"),
    ("clock_res_get", "ii", "i"),
    ("clock_time_get", "iIi", "i"),
    ("environ_get", "ii", "i"),
    ("environ_sizes_get", "ii", "i"),
    ("fd_advise", "iIIi", "i"),
    ("fd_allocate", "iII", "i"),
    ("fd_close", "i", "i"),
    ("fd_datasync", "i", "i"),
    ("fd_fdstat_get", "ii", "i"),
    ("fd_fdstat_set_flags", "ii", "i"),
    ("fd_fdstat_set_rights", "iII", "i"),
    ("fd_filestat_get", "ii", "i"),
    ("fd_filestat_set_size", "iI", "i"),
    ("fd_filestat_set_times", "iIIi", "i"),
    ("fd_pread", "iiiIi", "i"),
    ("fd_prestat_dir_name", "iii", "i"),
    ("fd_prestat_get", "ii", "i"),
    ("fd_pwrite", "iiiIi", "i"),
    ("fd_read", "iiii", "i"),
    ("fd_readdir", "iiiIi", "i"),
    ("fd_renumber", "ii", "i"),
    ("fd_seek", "iIii", "i"),
    ("fd_sync", "i", "i"),
    ("fd_tell", "ii", "i"),
    ("fd_write", "iiii", "i"),
    ("path_create_directory", "iii", "i"),
    ("path_filestat_get", "iiiii", "i"),
    ("path_filestat_set_times", "iiiiIIi", "i"),
    ("path_link", "iiiiiii", "i"),
    ("path_open", "iiiiiIIii", "i"),
    ("path_readlink", "iiiiii", "i"),
    ("path_remove_directory", "iii", "i"),
    ("path_rename", "iiiiii", "i"),
    ("path_symlink", "iiiii", "i"),
    ("path_unlink_file", "iii", "i"),
    ("poll_oneoff", "iiii", "i"),
    ("proc_exit", "i", ""),
    ("proc_raise", "i", "i"),
    ("random_get", "ii", "i"),
    ("sched_yield", "", "i"),
    ("sock_accept", "iii", "i"),
    ("sock_recv", "iiiiii", "i"),
    ("sock_send", "iiiii", "i"),
    ("sock_shutdown", "ii", "i"),
];

/// Says whether there is such a function with such a type, written as in the list.
pub(super) fn offers(module: &str, name: &str, parameters: &str, results: &str) -> bool {
    module == MODULE && FUNCTIONS.contains(&(name, parameters, results))
}

#[cfg(test)]
mod tests {
    use wasmer::{AsStoreMut as _, Extern, Type};

    use super::*;
    use crate::wasmer::run;

    fn letters(types: &[Type]) -> String {
        let letter = |ty: &Type| match ty {
            Type::I32 => 'i',
            Type::I64 => 'I',
            other => panic!("{other}"),
        };
        types.iter().map(letter).collect()
    }

    /// Each function of the list is offered with that type.
    #[test]
    fn list_is_what_wasi_offers() {
        let runtime = run::runtime().unwrap();
        let (mut store, _, imports) = run::empty(&runtime).unwrap();
        for (name, parameters, results) in FUNCTIONS {
            let Some(Extern::Function(function)) = imports.get_export(MODULE, name) else {
                panic!("{name} is not offered");
            };
            let ty = function.ty(&store.as_store_mut());
            assert_eq!(
                (letters(ty.params()).as_str(), letters(ty.results()).as_str()),
                (parameters, results),
                "{name}"
            );
        }
    }
}
