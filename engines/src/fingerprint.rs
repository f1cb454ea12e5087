//! What shapes native code, written down in order and hashed.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// An ordered list of `name=value` lines and its SHA-256.
///
/// Two artifacts may stand in for each other only if their fingerprints are equal. The list is kept so that a person
/// can be shown in what two fingerprints differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    lines: String,
    hex: String,
}

impl Fingerprint {
    /// Hashes `fields` in the order given. Line breaks in a value are escaped, so no value can pass for two fields.
    pub fn new<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let mut lines = String::new();
        for (name, value) in fields {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "{name}={}", value.escape_default());
        }
        let hex = Sha256::digest(lines.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { lines, hex }
    }

    /// Returns the SHA-256 of the lines, 64 hex digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// Returns the value of one field (escaped), if there is such a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }

    /// Returns the lines that were hashed, for a person to read.
    pub fn lines(&self) -> &str {
        &self.lines
    }
}
