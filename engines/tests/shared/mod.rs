//! The tests that every engine passes, from wasm to exit code: each guest runs in a process of its own. The crate's root has a
//! function `engine` that makes the engine.

pub(crate) mod common;
pub(crate) mod folders;
pub(crate) mod guest;
pub(crate) mod limits;
pub(crate) mod modules;
pub(crate) mod traps;

use libtest_mimic::Trial;

/// Lists them.
pub(crate) fn trials() -> Vec<Trial> {
    [folders::trials(), limits::trials(), modules::trials(), traps::trials()].into_iter().flatten().collect()
}
