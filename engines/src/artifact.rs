//! A label at the end of an artifact, which identifies the engine that made it.
//!
//! The artifact is an ELF image, and some engines write neither their version nor their options into it. So the engine's label follows
//! the image: its bytes, their number (4 bytes, little endian), and 8 bytes that mark the end. ELF readers ignore bytes after the image.
//! Because the label comes last, it also shows that the file is complete.
//!
//! wasmtime's artifacts need no label: their own header has a field for an embedder's version, and wasmtime compares it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::{Fingerprint, LoadError, NativeCode};

/// The last bytes of each artifact. The digit is the version of this format.
const END: [u8; 8] = *b"prewasi1";

/// Longest label that is read from a file, in bytes: a version and twelve digits are far shorter.
const LONGEST_LABEL: u32 = 128;

/// Returns the label for an engine's artifacts.
pub(crate) fn label_of(version: &str, fingerprint: &Fingerprint) -> String {
    format!("{version}-{}", fingerprint.hex())
}

/// Appends a label to an image.
pub(crate) fn seal(mut image: Vec<u8>, label: &str) -> Vec<u8> {
    let length = u32::try_from(label.len()).unwrap_or(u32::MAX);
    image.extend_from_slice(label.as_bytes());
    image.extend_from_slice(&length.to_le_bytes());
    image.extend_from_slice(&END);
    image
}

/// Checks that a file is complete and that this engine made it.
///
/// # Errors
/// [`LoadError::Incompatible`] names the difference to the engine's own artifacts.
pub(crate) fn check(code: &NativeCode, engine: &str, own: &str) -> Result<(), LoadError> {
    let refused = |reason| Err(LoadError::Incompatible { reason });
    code.check_size()?;
    match label(code.file(), code.size())? {
        None => refused(format!("it is no artifact of {engine}, or not a whole one")),
        Some(label) if label == own => Ok(()),
        Some(label) => refused(difference(&label, engine, own)),
    }
}

/// Describes the difference between a label and the engine's own.
fn difference(label: &str, engine: &str, own: &str) -> String {
    let parts = |label: &str| {
        let (version, fingerprint) = label.split_once('-').unwrap_or((label, ""));
        (version.to_owned(), fingerprint.chars().take(12).collect::<String>())
    };
    let ((version, fingerprint), (own_version, own_fingerprint)) = (parts(label), parts(own));
    if version != own_version {
        return format!("it was compiled by {engine} {version}, and this is {own_version}");
    }
    format!(
        "it was compiled with other options or for another CPU: its fingerprint is {fingerprint}, and that of this engine {own_fingerprint}"
    )
}

/// Reads the label after an image; `None` if the file does not end like an artifact.
fn label(file: &File, size: u64) -> io::Result<Option<String>> {
    let mut tail = [0; 12];
    let Some(start) = size.checked_sub(tail.len() as u64) else {
        return Ok(None);
    };
    file.read_exact_at(&mut tail, start)?;
    let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    if tail[4..] != END || length > LONGEST_LABEL {
        return Ok(None);
    }
    let Some(start) = start.checked_sub(length.into()) else {
        return Ok(None);
    };
    let mut label = vec![0; length as usize];
    file.read_exact_at(&mut label, start)?;
    Ok(String::from_utf8(label).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Option<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        label(file.as_file(), bytes.len() as u64).unwrap()
    }

    /// A written label is read back; a shorter or longer file has none.
    #[test]
    fn label_is_read_back() {
        let sealed = seal(b"image".to_vec(), "1-abc");
        assert_eq!(read(&sealed).as_deref(), Some("1-abc"));
        for length in 0..sealed.len() {
            assert_eq!(read(&sealed[..length]), None, "{length}");
        }
        assert_eq!(read(&[sealed.as_slice(), b"x"].concat()), None);
    }

    /// A file with a length that exceeds the file or the limit has no label.
    #[test]
    fn wrong_lengths_are_refused() {
        for length in [6_u32, 129, u32::MAX] {
            let bytes = [b"1-abc".as_slice(), &length.to_le_bytes(), &END].concat();
            assert_eq!(read(&bytes), None, "{length}");
        }
    }
}
