//! Paths of the parts that `test/setup` installs, and of the programs that cargo builds.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the folder of files that are kept between runs: `PREWASI_HOME`, else `~/.cache/prewasi`.
pub fn home() -> PathBuf {
    env::var_os("PREWASI_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache/prewasi"),
        PathBuf::from,
    )
}

/// Returns the path of a part that `test/setup` fetches, whether it exists or not.
pub fn part(name: impl AsRef<Path>) -> PathBuf {
    home().join("parts").join(name)
}

/// Returns the folder with the programs of this workspace, built in the same profile as the running program.
///
/// # Panics
/// If the running program is not in cargo's build folder.
pub fn programs() -> PathBuf {
    let exe = env::current_exe().expect("the running program has a path");
    let folder = exe.parent().expect("a program lies in a folder");
    if folder.ends_with("deps") {
        folder.parent().expect("deps lies in the profile's folder").into()
    } else {
        folder.into()
    }
}

/// Returns the path of a program of this workspace.
pub fn program(name: &str) -> PathBuf {
    programs().join(name)
}

/// Copies a program of this workspace in a process of its own. If this process held the copy open for writing, a child that another thread
/// forks at that moment would hold it too. Then the kernel would refuse to execute it (`ETXTBSY`).
///
/// # Panics
/// If the program is not built, or the target cannot be written.
pub fn copy_program(name: &str, target: &Path) {
    let status = Command::new("cp").arg(program(name)).arg(target).status().expect("cp is there");
    assert!(status.success(), "cannot copy {name} to {}", target.display());
}

/// Returns whether every part is required, so that a missing one is a failure.
pub fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true")
}
