//! Wasm bytes from an untrusted source: their kind is read from the bytes, never from a name or media type.

use prewasi_oci::{MAGIC, PreambleError, WasmKind};

/// Bytes that begin like wasm. Only the 8-byte preamble has been read: parsing the rest is the sandboxed compiler's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wasm {
    bytes: Vec<u8>,
    kind: WasmKind,
}

/// The reason why bytes are not wasm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WasmError {
    /// The bytes do not begin like wasm.
    #[error(transparent)]
    Preamble(#[from] PreambleError),
    /// The bytes are wasm text with an error in it.
    #[error("it is no wasm text: {reason}")]
    Text {
        /// The parser's message, with the line.
        reason: String,
    },
}

impl Wasm {
    /// Accepts bytes that begin with the preamble of wasm.
    ///
    /// # Errors
    /// [`WasmError`] names the actual format.
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

    /// Returns the kind of wasm: module or component.
    pub fn kind(&self) -> WasmKind {
        self.kind
    }
}
