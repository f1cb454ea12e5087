//! Wasm bytes from an untrusted source: what they are is read from the bytes, never from a name or media type.

/// Bytes that begin as wasm does. Only the 8-byte preamble has been read: parsing the rest is the sandboxed compiler's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wasm {
    bytes: Vec<u8>,
    kind: WasmKind,
}

/// The two binary formats of wasm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WasmKind {
    /// A core module (WASI preview 1).
    Module,
    /// A component (WASI preview 2 and later).
    Component,
}

/// Says what bytes are instead of wasm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WasmError {
    /// There are no bytes.
    #[error("it is empty")]
    Empty,
    /// It is an executable, a shared object or a serialized artifact of an engine.
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
    /// It is wasm text with an error in it.
    #[error("it is no wasm text: {reason}")]
    Text {
        /// What the parser says, with the line.
        reason: String,
    },
    /// It is something else.
    #[error("it is not wasm")]
    NotWasm,
}

const MAGIC: [u8; 4] = *b"\0asm";
const MODULE: u32 = 1;
const COMPONENT: u32 = 0x0001_000d;

impl Wasm {
    /// Takes bytes whose preamble says that they are wasm.
    ///
    /// # Errors
    /// [`WasmError`] says what they are instead.
    pub fn new(bytes: Vec<u8>) -> Result<Self, WasmError> {
        let kind = WasmKind::of(&bytes)?;
        Ok(Self { bytes, kind })
    }

    /// Translates the text format (`.wat`). The parser sees hostile text: call this in the sandbox.
    ///
    /// # Errors
    /// [`WasmError::Text`] names the line.
    pub fn from_text(text: &[u8]) -> Result<Self, WasmError> {
        if text.starts_with(&MAGIC) {
            return Self::new(text.to_vec());
        }
        let text = std::str::from_utf8(text).map_err(|error| WasmError::Text { reason: error.to_string() })?;
        Self::new(wat::parse_str(text).map_err(|error| WasmError::Text { reason: error.to_string() })?)
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns which of the two formats it is.
    pub fn kind(&self) -> WasmKind {
        self.kind
    }
}

impl WasmKind {
    /// Reads the kind from the first bytes (8 suffice).
    ///
    /// # Errors
    /// [`WasmError`] says what they are instead.
    pub fn of(start: &[u8]) -> Result<Self, WasmError> {
        if start.is_empty() {
            return Err(WasmError::Empty);
        }
        if let Some(format) = native_format(start) {
            return Err(WasmError::NativeCode { format });
        }
        let magic = &start[..start.len().min(4)];
        if magic != &MAGIC[..magic.len()] {
            return Err(WasmError::NotWasm);
        }
        let Some(version) = start.get(4..8) else {
            return Err(WasmError::Truncated { size: start.len() });
        };
        match u32::from_le_bytes([version[0], version[1], version[2], version[3]]) {
            MODULE => Ok(Self::Module),
            COMPONENT => Ok(Self::Component),
            version => Err(WasmError::Version { version }),
        }
    }
}

/// Recognises executables and the serialized artifacts of engines by their magic numbers.
fn native_format(start: &[u8]) -> Option<&'static str> {
    const FORMATS: [(&[u8], &str); 7] = [
        (b"\x7fELF", "ELF"),
        (b"MZ", "PE"),
        (b"\xcf\xfa\xed\xfe", "Mach-O"),
        (b"\xca\xfe\xba\xbe", "Mach-O"),
        (b"wasmer-universal", "wasmer artifact"),
        (b"\0aot", "WAMR artifact"),
        (b"!<arch>", "object archive"),
    ];
    FORMATS.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, format)| *format)
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
        assert_eq!(WasmKind::of(b""), Err(WasmError::Empty));
        assert_eq!(WasmKind::of(b"\0as"), Err(WasmError::Truncated { size: 3 }));
        assert_eq!(WasmKind::of(b"\0asm\x01\0\0"), Err(WasmError::Truncated { size: 7 }));
        assert_eq!(WasmKind::of(b"\0asm\x02\0\0\0"), Err(WasmError::Version { version: 2 }));
        assert_eq!(WasmKind::of(b"#!/bin/sh"), Err(WasmError::NotWasm));
        assert_eq!(WasmKind::of(b"\x7fELF\x02\x01\x01"), Err(WasmError::NativeCode { format: "ELF" }));
        assert_eq!(WasmKind::of(b"\0aot\x03"), Err(WasmError::NativeCode { format: "WAMR artifact" }));
    }
}
