//! The settings that shape native code, listed in order and hashed.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// An ordered list of `name=value` lines and its SHA-256.
///
/// An artifact may replace another only if their fingerprints are equal. The list is kept, so that the difference of two fingerprints can
/// be shown to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    lines: String,
    hex: String,
}

impl Fingerprint {
    /// Hashes `fields` in this order. Line breaks in a value are escaped, so that no value can look like two fields.
    pub fn new<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let mut lines = String::new();
        for (name, value) in fields {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "{name}={}", value.escape_default());
        }
        let hex = Sha256::digest(lines.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { lines, hex }
    }

    /// Returns the SHA-256 of the lines as 64 hex digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// Returns the escaped value of a field; `None` if there is no such field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }

    /// Returns the hashed lines, for people to read.
    pub fn lines(&self) -> &str {
        &self.lines
    }
}
