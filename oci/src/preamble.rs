//! What bytes are, by how they begin. Names and media types are claims; this is what a layer or file is taken for.

/// How wasm in binary form begins.
pub const MAGIC: [u8; 4] = *b"\0asm";
/// The four bytes after [`MAGIC`], little endian.
const MODULE: u32 = 1;
const COMPONENT: u32 = 0x0001_000d;

/// Executables, and the artifacts of engines, by how they begin.
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

/// Says what bytes are instead of wasm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PreambleError {
    /// There are no bytes.
    #[error("it is empty")]
    Empty,
    /// It is an executable, a shared object or an artifact of an engine.
    #[error("it is native code ({format}), which is never loaded from an image")]
    NativeCode {
        /// Name of the format, e.g. `ELF`.
        format: &'static str,
    },
    /// It begins as wasm does, but is shorter than the preamble.
    #[error("it is truncated after {size} bytes")]
    Truncated {
        /// Length in bytes.
        size: usize,
    },
    /// It is wasm of a version that nobody runs.
    #[error("it is wasm of unknown version {version:#x}")]
    Version {
        /// The four bytes after the magic number, little endian.
        version: u32,
    },
    /// It is something else.
    #[error("it is not wasm")]
    NotWasm,
}

impl WasmKind {
    /// Reads the kind from the first bytes: 8 suffice for wasm, 16 to name what it is instead.
    ///
    /// # Errors
    /// [`PreambleError`] says what they are instead.
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

    /// Returns the `os` that an image of it has.
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

    /// Both formats are told apart by their preamble.
    #[test]
    fn recognises_wasm() {
        assert_eq!(WasmKind::of(b"\0asm\x01\0\0\0"), Ok(WasmKind::Module));
        assert_eq!(WasmKind::of(b"\0asm\x0d\0\x01\0rest"), Ok(WasmKind::Component));
    }

    /// Everything else is refused under its own name.
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
