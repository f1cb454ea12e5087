//! Content digests, `sha256:<64 lower-case hex digits>`, as in the OCI image specification.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The name of a blob: the SHA-256 of its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// The reason why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The algorithm is not SHA-256, the only one that containerd's content store uses by default.
    #[error("cannot use digest {0:?}: only sha256 digests are supported")]
    Algorithm(String),
    /// The part after the colon is not 64 lower-case hex digits.
    #[error("cannot use digest {0:?}: expected sha256: and 64 lower-case hex digits")]
    Encoding(String),
}

impl Digest {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Hashes the whole output of `reader`, in pieces, and counts its bytes.
    ///
    /// # Errors
    /// The reader's error.
    pub fn of_reader(mut reader: impl Read) -> io::Result<(Self, u64)> {
        let mut hasher = Hasher::new();
        let size = io::copy(&mut reader, &mut hasher)?;
        Ok((hasher.finish(), size))
    }

    /// Hashes the first `size` bytes of `file`, read by position: the file's own offset is neither used nor changed.
    ///
    /// # Errors
    /// The file cannot be read. A shorter file is [`io::ErrorKind::UnexpectedEof`].
    pub fn of_file(file: &File, size: u64) -> io::Result<Self> {
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut offset = 0;
        while offset < size {
            let wanted = buffer.len().min(usize::try_from(size - offset).unwrap_or(usize::MAX));
            file.read_exact_at(&mut buffer[..wanted], offset)?;
            hasher.update(&buffer[..wanted]);
            offset += wanted as u64;
        }
        Ok(hasher.finish())
    }

    /// Returns the whole text, with `sha256:`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the 64 hex digits, which are safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// Returns the path of the blob in an OCI image layout.
    pub fn blob_path(&self) -> String {
        format!("blobs/sha256/{}", self.hex())
    }

    /// Returns the first 12 hex digits: enough for people, too few for machines.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

/// Hashes data in pieces, for data that need not fit into memory at once.
#[derive(Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Makes a hasher without data.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of all added bytes.
    pub fn finish(self) -> Digest {
        let hex = self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Digest(format!("sha256:{hex}"))
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let Some(hex) = text.strip_prefix("sha256:") else {
            return Err(DigestError::Algorithm(text.to_owned()));
        };
        if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text.to_owned()))
        } else {
            Err(DigestError::Encoding(text.to_owned()))
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digest of empty data is the well-known one, hashed at once or in pieces.
    #[test]
    fn hashes() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), empty);
        let bytes = vec![7; 300_000];
        assert_eq!(Digest::of_reader(&bytes[..]).unwrap(), (Digest::of(&bytes), 300_000));
        assert_eq!(Digest::of(b"").blob_path(), format!("blobs/{}", empty.replace(':', "/")));
        assert_eq!(Digest::of(b"").short(), "e3b0c44298fc");
    }

    /// Other algorithms, lengths, letters and paths are refused.
    #[test]
    fn refuses() {
        assert!(matches!("sha512:00".parse::<Digest>(), Err(DigestError::Algorithm(_))));
        for text in ["sha256:", "sha256:../../etc/passwd", &format!("sha256:{}", "A".repeat(64))] {
            assert!(matches!(text.parse::<Digest>(), Err(DigestError::Encoding(_))), "{text}");
        }
    }
}
