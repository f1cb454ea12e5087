//! Checks whether a node meets the requirements of prewasi: containerd, its files, the shims, the kernel's support for the sandbox and for
//! containers.
//!
//! Each check is independent and gives a result even if another fails. No check changes the node. Checks try the real operation: a
//! compile in the sandbox, a write to the runtime folder, loading a device filter.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use prewasi_cache::ContainerdStore;
use prewasi_engines::Engine;
use serde::Serialize;

use crate::chain;
use crate::compile::{self, CompileFailure, Input};
use crate::{Settings, StoreAddress};

mod cgroups;
mod kernel;
mod modules;
mod shims;
mod traps;

/// The oldest releases of containerd that keep wasm layers: of 1.7, and of all later versions.
const OLDEST_1_7: [u64; 3] = [1, 7, 7];
const OLDEST: [u64; 3] = [2, 0, 0];

/// The verdict of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Health {
    /// The node is as it should be.
    Ok,
    /// Containers run, but not as well as they could.
    Warn,
    /// Containers do not run, or cannot be compiled for.
    Failed,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// The subject of the check.
    pub name: String,
    /// The verdict.
    pub health: Health,
    /// The finding.
    pub found: String,
    /// Advice for the administrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Check {
    fn ok(name: &str, found: impl Into<String>) -> Self {
        Self { name: name.to_owned(), health: Health::Ok, found: found.into(), hint: None }
    }

    fn warn(name: &str, found: impl Into<String>, hint: &str) -> Self {
        Self { name: name.to_owned(), health: Health::Warn, found: found.into(), hint: Some(hint.to_owned()) }
    }

    fn failed(name: &str, found: impl Into<String>, hint: &str) -> Self {
        Self { health: Health::Failed, ..Self::warn(name, found, hint) }
    }
}

/// Runs every check. `path` is the search path for programs, usually `PATH`.
pub(crate) async fn examine(settings: &Settings, engines: &[&dyn Engine], path: &str) -> Vec<Check> {
    let mut checks = match &settings.store {
        StoreAddress::Containerd { address, namespace } => containerd(address, namespace).await,
        StoreAddress::Layout(_) => Vec::new(),
    };
    checks.extend(shims::check(engines, path));
    checks.push(runtime_folder(&settings.runtime_dir));
    checks.extend([kernel::seccomp(), kernel::landlock(), kernel::user_namespaces(), kernel::network_namespaces()]);
    checks.extend(cgroups::check());
    checks.extend(modules::check());
    for engine in engines.iter().filter(|engine| engine.compiles()) {
        checks.push(sandbox(settings, *engine).await);
    }
    checks
}

async fn containerd(address: &Path, namespace: &str) -> Vec<Check> {
    let store = match ContainerdStore::connect(address, namespace).await {
        Ok(store) => store,
        Err(error) => {
            let hint = "start containerd, or name its socket with --address or CONTAINERD_ADDRESS";
            return vec![Check::failed("containerd", chain(&error), hint)];
        }
    };
    let mut checks = match store.version().await {
        Ok(version) => [vec![release(&version)], traps::of(&numbers(&version))].concat(),
        Err(error) => vec![Check::failed("containerd", chain(&error), "look at containerd's log")],
    };
    checks.push(content_root(&store).await);
    checks
}

/// Reads up to three numbers of a version.
fn numbers(version: &str) -> Vec<u64> {
    version
        .trim_start_matches('v')
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse().ok())
        .take(3)
        .collect()
}

/// Judges containerd by the version that it gives.
fn release(version: &str) -> Check {
    let numbers = numbers(version);
    if numbers.len() < 2 {
        return Check::warn("containerd", format!("version {version:?}"), "1.7.7, 2.0 and later are known to work");
    }
    let is_new =
        if numbers.starts_with(&OLDEST_1_7[..2]) { numbers >= OLDEST_1_7.to_vec() } else { numbers[0] >= OLDEST[0] };
    if is_new {
        Check::ok("containerd", format!("version {version}"))
    } else {
        Check::failed(
            "containerd",
            format!("version {version}"),
            "install 1.7.7, 2.0 or later: older ones drop wasm layers",
        )
    }
}

async fn content_root(store: &ContainerdStore) -> Check {
    const NAME: &str = "content store";
    let hint = "run as root on containerd's node; until then artifacts are copied into memory, once per container";
    let Some(root) = store.content_root().await else {
        return Check::warn(NAME, "containerd does not say where its files are", hint);
    };
    match std::fs::read_dir(root.join("blobs/sha256")) {
        Ok(_) => Check::ok(NAME, format!("{} can be read", root.display())),
        // containerd makes these folders with the first blob.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && root.parent().is_some_and(Path::is_dir) => {
            Check::ok(NAME, format!("{} is empty", root.display()))
        }
        Err(error) => Check::warn(NAME, format!("cannot read {}: {error}", root.display()), hint),
    }
}

/// Checks that the runtime folder can be written to; leaves only the folder itself.
fn runtime_folder(folder: &Path) -> Check {
    const NAME: &str = "runtime folder";
    let file = folder.join(format!(".doctor-{}", std::process::id()));
    let write = || {
        std::fs::create_dir_all(folder)?;
        File::options().write(true).create_new(true).open(&file)?;
        std::fs::remove_file(&file)
    };
    match write() {
        Ok(()) => Check::ok(NAME, format!("{} can be written to", folder.display())),
        Err(error) => Check::failed(
            NAME,
            format!("cannot write to {}: {error}", folder.display()),
            "run as root, or name another folder by PREWASI_RUNTIME_DIR",
        ),
    }
}

/// Compiles the smallest possible module, in the same way as every module.
async fn sandbox(settings: &Settings, engine: &dyn Engine) -> Check {
    const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";
    let name = format!("compile with {}", engine.name());
    let file = rustix::fs::memfd_create("prewasi-doctor", rustix::fs::MemfdFlags::CLOEXEC)
        .map(File::from)
        .map_err(std::io::Error::from)
        .and_then(|mut file| file.write_all(EMPTY_MODULE).map(|()| file));
    let hint = "the lines above say what the kernel lacks; PREWASI_LOG=debug says more";
    let file = match file {
        Ok(file) => file,
        Err(error) => return Check::failed(&name, format!("cannot make a memfd: {error}"), hint),
    };
    match compile::compile(settings, engine, Input { file: &file, text: false }).await {
        Ok(compiled) => Check::ok(&name, format!("a module in the sandbox took {} ms", compiled.elapsed.as_millis())),
        Err(CompileFailure::Refused(error)) => Check::failed(&name, chain(&error), hint),
        Err(CompileFailure::Worker(error)) => Check::failed(&name, chain(&error), hint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Releases that drop wasm layers fail, later ones pass, and an unreadable version is a warning.
    #[test]
    fn releases_are_judged() {
        for version in ["1.7.7", "v1.7.24", "1.7.24~ds1", "2.0.0", "2.1.9+unknown", "v2.0.0-rc.1", "3.0"] {
            assert_eq!(release(version).health, Health::Ok, "{version}");
        }
        for version in ["1.6.20~ds1", "1.7.6", "1.6.36", "1.7"] {
            assert_eq!(release(version).health, Health::Failed, "{version}");
        }
        for version in ["", "unknown", "abcdef0"] {
            assert_eq!(release(version).health, Health::Warn, "{version}");
        }
    }

    /// A writable folder passes and is left empty; a file in its place fails.
    #[test]
    fn runtime_folder_is_tried() {
        let dir = tempfile::tempdir().expect("temp dir");
        let folder = dir.path().join("new/run");
        assert_eq!(runtime_folder(&folder).health, Health::Ok);
        assert_eq!(std::fs::read_dir(&folder).expect("it was made").count(), 0);
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("write");
        let check = runtime_folder(&file);
        assert_eq!(check.health, Health::Failed);
        assert!(check.hint.is_some());
    }
}
