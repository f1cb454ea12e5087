//! From wasm to native code: validate, check the imports, change what must be changed, compile.
//!
//! WasmEdge compiles to a file and has no other way, so there is a folder for it, which is removed afterwards. In the
//! sandbox of the compile worker that folder is in memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use wasmparser::Validator;

use super::library::{self, Configuration};
use super::options::Options;
use super::{NAME, rewrite};
use crate::{CompileError, Wasm, artifact, head};

/// Compiles to the bytes of an artifact.
///
/// # Errors
/// [`CompileError`] names what in the wasm is at fault.
pub(super) fn compile(options: &Options, wasm: &Wasm) -> Result<Vec<u8>, CompileError> {
    library::check().map_err(unsupported)?;
    head::check(wasm, NAME)?;
    Validator::new_with_features(options.features()).validate_all(wasm.bytes()).map_err(head::invalid)?;
    let wasm = rewrite::rewrite(wasm.bytes()).map_err(unsupported)?;
    // Whatever was changed, WasmEdge sees nothing that has not been validated.
    Validator::new_with_features(options.features())
        .validate_all(&wasm)
        .map_err(|error| unsupported(error.to_string()))?;
    let folder = Folder::make().map_err(|error| unsupported(format!("a folder for the compiler: {error}")))?;
    let output = folder.0.join("code.so");
    let configuration = Configuration::new(options).map_err(unsupported)?;
    library::compile(&configuration, &wasm, &output).map_err(unsupported)?;
    let image = read(&output).map_err(|error| unsupported(format!("what the compiler has written: {error}")))?;
    Ok(artifact::seal(image, &options.label()))
}

/// Reads a library that is complete: the linker reports no failure to whoever asked for the code.
fn read(output: &Path) -> io::Result<Vec<u8>> {
    const MAGIC: &[u8] = b"\x7fELF";
    let image = fs::read(output)?;
    if image.starts_with(MAGIC) { Ok(image) } else { Err(io::Error::other("it is no library")) }
}

fn unsupported(reason: String) -> CompileError {
    CompileError::Unsupported { reason }
}

/// A folder of one's own, gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn make() -> io::Result<Self> {
        Ok(Self(nix::unistd::mkdtemp(&std::env::temp_dir().join("prewasi-XXXXXX"))?))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is found where temporary files are, and hurts nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}
