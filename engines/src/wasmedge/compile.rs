//! Compiles wasm to native code: validates it, checks the imports, makes the necessary changes, compiles.
//!
//! WasmEdge compiles only to a file. So the engine makes a folder for it, and removes the folder afterwards. In the
//! sandbox of the compile worker that folder is in memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use wasmparser::Validator;

use super::library::{self, Configuration};
use super::options::CodeOptions;
use super::{NAME, linked, rewrite};
use crate::{CompileError, Wasm, artifact, head};

/// Compiles to the bytes of an artifact.
///
/// # Errors
/// [`CompileError`] names the fault in the wasm.
pub(super) fn compile(options: &CodeOptions, wasm: &Wasm) -> Result<Vec<u8>, CompileError> {
    linked::check().map_err(unsupported)?;
    head::check(wasm, NAME)?;
    Validator::new_with_features(options.features()).validate_all(wasm.bytes()).map_err(head::invalid)?;
    let wasm = rewrite::rewrite(wasm.bytes()).map_err(unsupported)?;
    // WasmEdge must see only validated wasm, so the engine validates the changed module too.
    Validator::new_with_features(options.features())
        .validate_all(&wasm)
        .map_err(|error| unsupported(error.to_string()))?;
    let folder =
        Folder::make().map_err(|error| unsupported(format!("cannot make a folder for the compiler: {error}")))?;
    let output = folder.0.join("code.so");
    let configuration = Configuration::new(options).map_err(unsupported)?;
    library::compile(&configuration, &wasm, &output).map_err(failed)?;
    let mut image =
        read(&output).map_err(|error| unsupported(format!("cannot read the compiler's output: {error}")))?;
    leave_out_code(&mut image, &wasm).map_err(unsupported)?;
    Ok(artifact::seal(image, &options.label()))
}

/// Reads a complete library. The check is needed because the linker reports no failure to its caller.
fn read(output: &Path) -> io::Result<Vec<u8>> {
    const MAGIC: &[u8] = b"\x7fELF";
    let image = fs::read(output)?;
    if image.starts_with(MAGIC) { Ok(image) } else { Err(io::Error::other("it is not a library")) }
}

/// Removes the code from the wasm that the compiler has put into the library. WasmEdge reads all of that wasm when it
/// loads the library, and runs none of it. The space stays, so that nothing else moves.
fn leave_out_code(image: &mut [u8], wasm: &[u8]) -> Result<(), String> {
    const ALIGNMENT: usize = size_of::<u32>();
    let length = u32::try_from(wasm.len()).map_err(|error| error.to_string())?.to_le_bytes();
    let start = image.windows(wasm.len()).position(|window| window == wasm);
    let size = start.map(|start| (start + wasm.len()).next_multiple_of(ALIGNMENT));
    let (Some(start), Some(size)) = (start, size.filter(|size| image[*size..].starts_with(&length))) else {
        return Err("the compiler's output has no copy of the wasm in the expected place".to_owned());
    };
    let hollow = rewrite::hollow(wasm)?;
    if hollow.len() > wasm.len() {
        // The module has hardly any code.
        return Ok(());
    }
    image[start..start + wasm.len()].fill(0);
    image[start..start + hollow.len()].copy_from_slice(&hollow);
    image[size..size + ALIGNMENT].copy_from_slice(&u32::try_from(hollow.len()).unwrap_or(u32::MAX).to_le_bytes());
    Ok(())
}

/// Replaces WasmEdge's generic message, the only one that it gives if there is not enough memory.
fn failed(reason: String) -> CompileError {
    const ANYTHING: &str = "generic runtime error";
    unsupported(if reason == ANYTHING {
        "the compiler gave no reason; perhaps it had too little memory".to_owned()
    } else {
        reason
    })
}

fn unsupported(reason: String) -> CompileError {
    CompileError::Unsupported { reason }
}

/// A temporary folder. It is removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn make() -> io::Result<Self> {
        Ok(Self(nix::unistd::mkdtemp(&std::env::temp_dir().join("prewasi-XXXXXX"))?))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover folder lies among the temporary files, and does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}
