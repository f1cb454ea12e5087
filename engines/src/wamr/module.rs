//! What can be said of a module before it runs: whether it is valid, what it imports, what it exports.

use std::collections::BTreeMap;

use wasmparser::types::EntityType;
use wasmparser::{Validator, WasmFeatures};

use crate::{CompileError, Wasm, WasmKind};

/// What WAMR's fast interpreter takes, as it is built here: the second standard without SIMD.
const FEATURES: WasmFeatures = WasmFeatures::WASM2.difference(WasmFeatures::SIMD).union(WasmFeatures::GC_TYPES);

const WASI: &str = "wasi_snapshot_preview1";
/// The functions of WASI preview 1 that WAMR has.
const FUNCTIONS: [&str; 46] = [
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// An export: how many parameters and results a function has; `None` for what is no function.
pub(super) type Exports = BTreeMap<String, Option<(usize, usize)>>;

/// What a module is like.
pub(super) struct Module {
    pub(super) exports: Exports,
    /// What its largest memory has from the beginning, pages.
    pub(super) pages: u64,
}

/// Validates a module and its imports.
///
/// # Errors
/// [`CompileError`]: a component, invalid wasm, or an import that there is not.
pub(super) fn check(wasm: &Wasm) -> Result<Module, CompileError> {
    if wasm.kind() == WasmKind::Component {
        return Err(CompileError::Unsupported { reason: "wamr runs core modules, and this is a component".to_owned() });
    }
    let invalid = |error: wasmparser::BinaryReaderError| CompileError::Invalid { reason: error.to_string() };
    let types = Validator::new_with_features(FEATURES).validate_all(wasm.bytes()).map_err(invalid)?;
    let types = types.as_ref();
    for (module, name, entity) in types.core_imports().into_iter().flatten() {
        let is_function = matches!(entity, EntityType::Func(_) | EntityType::FuncExact(_));
        if module != WASI || !is_function || !FUNCTIONS.contains(&name) {
            return Err(CompileError::UnknownImport { module: module.to_owned(), name: name.to_owned() });
        }
    }
    // Else WAMR would say so in the container, when it runs.
    let has = |wanted: &str, is: fn(&EntityType) -> bool| {
        types.core_exports().into_iter().flatten().any(|(name, entity)| name == wanted && is(&entity))
    };
    if has("_start", |_| true) && !has("memory", |entity| matches!(entity, EntityType::Memory(_))) {
        let reason = "wamr wants a program to export its memory as \"memory\"".to_owned();
        return Err(CompileError::Unsupported { reason });
    }
    let export = |(name, entity): (&str, EntityType)| {
        let function = match entity {
            EntityType::Func(id) | EntityType::FuncExact(id) => {
                let function = types[id].unwrap_func();
                Some((function.params().len(), function.results().len()))
            }
            _ => None,
        };
        (name.to_owned(), function)
    };
    let pages = (0..types.memory_count()).map(|memory| types.memory_at(memory).initial).max().unwrap_or(0);
    Ok(Module { exports: types.core_exports().into_iter().flatten().map(export).collect(), pages })
}
