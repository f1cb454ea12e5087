//! Guest programs of the tests, built from the sources in `guests/`: `demo.wasm` from C, the others from it or from WAT. The repository
//! contains no binaries of them.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata, metadata};

use crate::home;

/// The demo program, a module. Without arguments it prints a line each second; it exports `greet`.
pub const DEMO: &str = "demo.wasm";
/// The demo program as a component that preserves exit codes.
pub const DEMO_COMPONENT: &str = "demo-component.wasm";
/// A component that tries to use the network, and prints the results.
pub const NETWORK: &str = "network-component.wasm";
/// A component that answers HTTP requests; each path is a separate case, see `guests/web.c`.
pub const WEB: &str = "web-component.wasm";
/// Cases of WASI preview 1, see `guests/wasi/main.c`.
pub const WASI: &str = "wasi.wasm";
/// A component of WASI preview 3 that answers HTTP requests, see `guests/web3.c`.
pub const WEB3: &str = "web3-component.wasm";
/// A module that calls the functions with paths, see `guests/paths.c`.
pub const PATHS: &str = "paths.wasm";
/// The same program as a component.
pub const PATHS_COMPONENT: &str = "paths-component.wasm";
/// The same program for this machine.
pub const PATHS_NATIVE: &str = "paths";
/// A module with an import that no engine provides.
pub const UNKNOWN_IMPORT: &str = "unknown-import.wasm";
/// A module with a table of 100,000 entries, which exits with 42.
pub const LARGE_TABLE: &str = "large-table.wasm";

/// The reason why a guest could not be built.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The script that compiles the C sources failed.
    #[error("cannot build the guests with {}: {reason}", script.display())]
    Build {
        /// The script.
        script: PathBuf,
        /// The script's output.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("cannot access {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A WAT source has an error.
    #[error("cannot translate {}", path.display())]
    Text {
        /// The source.
        path: PathBuf,
        /// The parser's error.
        source: wat::Error,
    },
    /// A module cannot be converted to a component.
    #[error("cannot make a component of the module: {reason}")]
    Componentize {
        /// The encoder's error.
        reason: String,
    },
}

/// Returns the path of a guest. The first call builds all of them.
///
/// # Panics
/// If they cannot be built: every test needs them.
pub fn path(name: &str) -> PathBuf {
    static FOLDER: LazyLock<Result<PathBuf, GuestError>> = LazyLock::new(|| {
        let folder = home::home().join("guests");
        build(&folder).map(|()| folder)
    });
    FOLDER.as_ref().expect("the guests can be built").join(name)
}

/// Builds all guests into `folder`. Other processes may do the same at the same time.
///
/// # Errors
/// [`GuestError`] names the failed step.
pub fn build(folder: &Path) -> Result<(), GuestError> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests");
    let script = sources.join("build");
    let output = Command::new(&script).arg(folder).output();
    let output = output.map_err(|error| GuestError::Build { script: script.clone(), reason: error.to_string() })?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        return Err(GuestError::Build { script, reason });
    }
    for (core, component) in
        [("demo-core.wasm", DEMO_COMPONENT), ("network-core.wasm", NETWORK), (PATHS, PATHS_COMPONENT)]
    {
        let core = folder.join(core);
        let module = fs::read(&core).map_err(|source| GuestError::File { path: core, source })?;
        write(&folder.join(component), &componentize(&module)?)?;
    }
    let read = |path: &Path| fs::read(path).map_err(|source| GuestError::File { path: path.to_owned(), source });
    for (world, component) in [("web", WEB), ("web3", WEB3)] {
        let core = read(&folder.join(format!("{world}-core.wasm")))?;
        let wit = read(&sources.join(format!("{world}.wit")))?;
        write(&folder.join(component), &service(&core, &String::from_utf8_lossy(&wit), world)?)?;
    }
    for name in [UNKNOWN_IMPORT, LARGE_TABLE] {
        let path = sources.join(name).with_extension("wat");
        let wasm = wat::parse_file(&path).map_err(|source| GuestError::Text { path, source })?;
        write(&folder.join(name), &wasm)?;
    }
    Ok(())
}

/// Converts a module to a component that serves: wasmtime's adapter for libraries translates WASI preview 1. `wit` is the text with the
/// world `world`, which lists the module's other imports and exports.
///
/// # Errors
/// [`GuestError::Componentize`] if the module does not match the world.
fn service(module: &[u8], wit: &str, world: &str) -> Result<Vec<u8>, GuestError> {
    let encode = || {
        // The adapter's world has the packages that the text imports.
        let (_, mut known) = metadata::decode(WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?;
        let package = known.resolve.push_str("guest.wit", wit)?;
        let world = known.resolve.select_world(&[package], Some(world))?;
        let mut module = module.to_vec();
        embed_component_metadata(&mut module, &known.resolve, world, StringEncoding::UTF8)?;
        ComponentEncoder::default()
            .validate(true)
            .module(&module)?
            .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?
            .encode()
    };
    // The encoder's error does not implement the standard library's trait.
    encode().map_err(|error| GuestError::Componentize { reason: format!("{error:#}") })
}

/// Converts a module to a command component: wasmtime's adapter translates WASI preview 1 to preview 2. The module may also import
/// functions of preview 2, in the adapter's version.
///
/// # Errors
/// [`GuestError::Componentize`] if the bytes are no module, or it imports functions outside of WASI.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, GuestError> {
    let encode = || {
        // A command may import the adapter's world without `run`.
        let (_, mut imports) = metadata::decode(WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?;
        // Both adapters' worlds have the same name, and two different worlds of one name cannot be merged.
        if let Some(package) = imports.resolve.worlds[imports.world].package {
            imports.resolve.packages[package].name.name = "guest".to_owned();
        }
        let mut module = module.to_vec();
        embed_component_metadata(&mut module, &imports.resolve, imports.world, StringEncoding::UTF8)?;
        ComponentEncoder::default()
            .validate(true)
            .module(&module)?
            .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)?
            .encode()
    };
    // The encoder's error does not implement the standard library's trait.
    encode().map_err(|error| GuestError::Componentize { reason: format!("{error:#}") })
}

/// Writes a file atomically.
fn write(path: &Path, bytes: &[u8]) -> Result<(), GuestError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let prefix = path.file_name().unwrap_or(OsStr::new("guest"));
    let write = || {
        // Tests of root may build guests that other users run later.
        let permissions = fs::Permissions::from_mode(0o644);
        let mut file = tempfile::Builder::new().prefix(prefix).permissions(permissions).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path).map_err(|error| error.error)
    };
    write().map(drop).map_err(|source| GuestError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use oci_tar_builder::{Layer, media_type};
    use prewasi_engines::{Engine as _, Guest, NativeCode, Preopen, RunError, Wasm, Wasmtime};
    use prewasi_oci::WasmKind;

    use super::*;

    /// Every guest is valid, and has the format of its name.
    #[test]
    fn guests_are_valid() {
        for (name, kind) in [
            (DEMO, WasmKind::Module),
            (DEMO_COMPONENT, WasmKind::Component),
            (NETWORK, WasmKind::Component),
            (WEB, WasmKind::Component),
            (WEB3, WasmKind::Component),
            (WASI, WasmKind::Module),
            (UNKNOWN_IMPORT, WasmKind::Module),
            (LARGE_TABLE, WasmKind::Module),
        ] {
            let layer = Layer::read(media_type::WASM, &path(name)).unwrap();
            assert_eq!(layer.wasm().unwrap().kind, kind, "{name}");
        }
    }

    /// The component is a command and imports only a command's world.
    #[test]
    fn component_is_a_command() {
        let layer = Layer::read(media_type::WASM, &path(DEMO_COMPONENT)).unwrap();
        let interface = layer.wasm().unwrap().interface.clone().unwrap();
        assert!(interface.exports.iter().any(|name| name.starts_with("wasi:cli/run@0.2.")), "{interface:?}");
        let foreign: Vec<_> = interface.imports.iter().filter(|name| !name.starts_with("wasi:")).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
    }

    /// The engine provides all imports of the guests, except of the guest that is made to fail.
    #[test]
    fn engine_takes_the_guests() {
        let engine = Wasmtime::new();
        let compile = |name| engine.compile(&Wasm::new(fs::read(path(name)).unwrap()).unwrap());
        for name in [DEMO, DEMO_COMPONENT, NETWORK, WEB, LARGE_TABLE] {
            assert!(compile(name).is_ok(), "{name}: {:?}", compile(name).err());
        }
        assert!(compile(UNKNOWN_IMPORT).is_err());
        for name in [DEMO_COMPONENT, NETWORK, WEB] {
            let layer = Layer::read(media_type::WASM, &path(name)).unwrap();
            let imports = layer.wasm().unwrap().interface.clone().unwrap().imports.into_iter().collect::<Vec<_>>();
            assert!(!imports.is_empty(), "{name}");
            assert_eq!(engine.first_unprovided(&imports), None, "{name}");
        }
    }

    /// Compiles a guest and runs it in this process, with `folder` as its root.
    fn run(name: &str, args: &[&str], folder: &Path) -> Result<u8, RunError> {
        let engine = Wasmtime::new();
        let native = engine.compile(&Wasm::new(fs::read(path(name)).unwrap()).unwrap()).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&native).unwrap();
        // SAFETY: the same engine has just compiled it, into a file that no other process can reach.
        let code = unsafe { NativeCode::trust(file, native.len() as u64) };
        let guest = Guest {
            args: [&["demo"], args].concat().iter().map(|&arg| arg.to_owned()).collect(),
            cwd: "/".into(),
            preopens: vec![Preopen { host: folder.to_owned(), guest: "/".to_owned(), read_only: false }],
            ..Guest::default()
        };
        std::thread::spawn(move || engine.load(code).unwrap().run(&guest)).join().unwrap()
    }

    /// Module and component end with the requested exit code, or with their own codes for wrong usage and failure.
    #[test]
    fn guests_end_with_their_codes() {
        let folder = tempfile::tempdir().unwrap();
        for name in [DEMO, DEMO_COMPONENT] {
            for (args, code) in [
                (&["exit", "0"][..], 0),
                (&["exit", "7"], 7),
                (&["exit", "255"], 255),
                (&["no"], 64),
                (&["read", "/no"], 1),
            ] {
                let outcome = run(name, args, folder.path());
                assert!(outcome.as_ref().is_ok_and(|found| *found == code), "{name} {args:?}: {outcome:?}");
            }
            let outcome = run(name, &["trap"], folder.path());
            assert!(matches!(outcome, Err(RunError::Trap { .. })), "{name}: {outcome:?}");
        }
        assert!(matches!(run(LARGE_TABLE, &[], folder.path()), Ok(42)));
    }

    /// Module and component write the requested file.
    #[test]
    fn guests_write_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in [DEMO, DEMO_COMPONENT] {
            let outcome = run(name, &["write", "/file", name], folder.path());
            assert!(matches!(outcome, Ok(0)), "{name}: {outcome:?}");
            assert_eq!(fs::read_to_string(folder.path().join("file")).unwrap(), format!("{name}\n"));
        }
    }

    /// Bytes that are no module are not converted.
    #[test]
    fn only_modules_become_components() {
        let error = componentize(b"\x7fELF").unwrap_err();
        assert!(matches!(error, GuestError::Componentize { .. }), "{error}");
    }
}
