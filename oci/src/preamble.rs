//! The format of bytes, by their beginning. Names and media types are only claims; the beginning decides how a layer or file is treated.

/// The first bytes of wasm in binary form.
pub const MAGIC: [u8; 4] = *b"\0asm";
/// The four bytes after [`MAGIC`], little endian.
const MODULE: u32 = 1;
const COMPONENT: u32 = 0x0001_000d;

/// First bytes of executables and of engines' artifacts, with the name of each format.
const NATIVE: [(&[u8], &str); 8] = [
    (b"\x7fELF", "ELF"),
    (b"MZ", "PE"),
    (b"\xcf\xfa\xed\xfe", "Mach-O"),
    (b"\xfe\xed\xfa\xcf", "Mach-O"),
    (b"\xca\xfe\xba\xbe", "Mach-O"),
    (b"wasmer-universal", "wasmer artifact"),
    (b"\0aot", "WAMR artifact"),
    (b"!<arch>", "object archive"),
];

/// The two binary formats of wasm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WasmKind {
    /// A core module (WASI preview 1).
    Module,
    /// A component (WASI preview 2 and later).
    Component,
}

/// The reason why bytes are not wasm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PreambleError {
    /// There are no bytes.
    #[error("it is empty")]
    Empty,
    /// The bytes are an executable, a shared object or an artifact of an engine.
    #[error("it is native code ({format}), which is never loaded from an image")]
    NativeCode {
        /// Name of the format, e.g. `ELF`.
        format: &'static str,
    },
    /// The bytes begin like wasm, but are shorter than the preamble.
    #[error("it is truncated after {size} bytes")]
    Truncated {
        /// Length in bytes.
        size: usize,
    },
    /// The bytes are wasm of an unknown version.
    #[error("it is wasm of unknown version {version:#x}")]
    Version {
        /// The four bytes after the magic number, little endian.
        version: u32,
    },
    /// The bytes are of another format.
    #[error("it is not wasm")]
    NotWasm,
}

impl WasmKind {
    /// Reads the kind from the first bytes: 8 suffice for wasm, 16 to name another format.
    ///
    /// # Errors
    /// [`PreambleError`] names the actual format.
    pub fn of(start: &[u8]) -> Result<Self, PreambleError> {
        if start.is_empty() {
            return Err(PreambleError::Empty);
        }
        if let Some((_, format)) = NATIVE.iter().find(|(magic, _)| start.starts_with(magic)) {
            return Err(PreambleError::NativeCode { format });
        }
        let magic = &start[..start.len().min(MAGIC.len())];
        if magic != &MAGIC[..magic.len()] {
            return Err(PreambleError::NotWasm);
        }
        let Some(version) = start.get(4..8) else {
            return Err(PreambleError::Truncated { size: start.len() });
        };
        match u32::from_le_bytes([version[0], version[1], version[2], version[3]]) {
            MODULE => Ok(Self::Module),
            COMPONENT => Ok(Self::Component),
            version => Err(PreambleError::Version { version }),
        }
    }

    /// Returns the `os` of an image with wasm of this kind.
    pub fn os(self) -> &'static str {
        match self {
            Self::Module => "wasip1",
            Self::Component => "wasip2",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The preamble distinguishes the two formats.
    #[test]
    fn recognises_wasm() {
        assert_eq!(WasmKind::of(b"\0asm\x01\0\0\0"), Ok(WasmKind::Module));
        assert_eq!(WasmKind::of(b"\0asm\x0d\0\x01\0rest"), Ok(WasmKind::Component));
    }

    /// Each other format is refused with its name.
    #[test]
    fn refuses_the_rest() {
        assert_eq!(WasmKind::of(b""), Err(PreambleError::Empty));
        assert_eq!(WasmKind::of(b"\0as"), Err(PreambleError::Truncated { size: 3 }));
        assert_eq!(WasmKind::of(b"\0asm\x01\0\0"), Err(PreambleError::Truncated { size: 7 }));
        assert_eq!(WasmKind::of(b"\0asm\x02\0\0\0"), Err(PreambleError::Version { version: 2 }));
        assert_eq!(WasmKind::of(b"#!/bin/sh"), Err(PreambleError::NotWasm));
        for (magic, format) in NATIVE {
            assert_eq!(WasmKind::of(magic), Err(PreambleError::NativeCode { format }), "{format}");
        }
    }
}
