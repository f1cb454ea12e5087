//! Reads files that another user may own and change: with a limit, by position, and if the content must not change, from a sealed copy.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;

use prewasi_cache::seal;
use prewasi_oci::{Digest, Hasher};
use rustix::fs::MemfdFlags;

/// Longest wasm file, in bytes. Every file that is read into memory or hashed needs a limit.
pub(crate) const WASM_LIMIT: u64 = 1 << 30;

/// Reads the bytes that identify the kind of wasm.
///
/// # Errors
/// The system's error.
pub(crate) fn preamble(file: &File) -> io::Result<Vec<u8>> {
    let mut start = [0; 16];
    let length = file.read_at(&mut start, 0)?;
    Ok(start[..length].to_vec())
}

/// Hashes a whole wasm file.
///
/// # Errors
/// The system's error, or a file larger than [`WASM_LIMIT`].
pub(crate) fn hash(file: &File) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    for_each_piece(file, WASM_LIMIT, |piece| {
        hasher.update(piece);
        Ok(())
    })?;
    Ok(hasher.finish())
}

/// Reads a whole wasm file.
///
/// # Errors
/// The system's error, or a file larger than [`WASM_LIMIT`].
pub(crate) fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for_each_piece(file, WASM_LIMIT, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(bytes)
}

/// Copies a file into a sealed memfd, and checks that the copy's bytes match `digest`.
///
/// # Errors
/// The system's error, a file larger than `limit` bytes, or other bytes.
pub(crate) fn sealed_copy(file: &File, digest: &Digest, limit: u64) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy = File::from(rustix::fs::memfd_create("prewasi-copy", flags)?);
    let mut hasher = Hasher::new();
    for_each_piece(file, limit, |piece| {
        hasher.update(piece);
        copy.write_all(piece)
    })?;
    let actual = hasher.finish();
    if actual != *digest {
        return Err(io::Error::other(format!(
            "its bytes were changed while it was read: they hash to {actual} instead of {digest}"
        )));
    }
    seal(&copy)?;
    Ok(copy)
}

/// Reads by position, because a worker may share the descriptor.
fn for_each_piece(file: &File, limit: u64, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let too_large = || io::Error::other(format!("it has more than {limit} bytes"));
    // A sparse file takes as long to read as a full one.
    if file.metadata()?.len() > limit {
        return Err(too_large());
    }
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let length = file.read_at(&mut buffer, offset)?;
        if length == 0 {
            return Ok(());
        }
        offset += length as u64;
        if offset > limit {
            return Err(too_large());
        }
        take(&buffer[..length])?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// A copy has the bytes of its digest and cannot be changed; other bytes, or too many, are refused.
    #[test]
    fn copies_are_what_was_hashed() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"first").unwrap();
        let digest = hash(&file).unwrap();
        let mut copy = sealed_copy(&file, &digest, 5).unwrap();
        file.write_all_at(b"other", 0).unwrap();
        let mut text = String::new();
        copy.write_at(b"x", 0).unwrap_err();
        std::io::Seek::rewind(&mut copy).unwrap();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "first");
        let changed = sealed_copy(&file, &digest, 5).unwrap_err().to_string();
        assert!(changed.contains("changed while it was read"), "{changed}");
        let long = sealed_copy(&file, &digest, 4).unwrap_err().to_string();
        assert_eq!(long, "it has more than 4 bytes");
    }

    /// A huge sparse file is refused by its length, without reading it.
    #[test]
    fn holes_are_not_read() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100 << 30).unwrap();
        let started = std::time::Instant::now();
        assert_eq!(hash(&file).unwrap_err().to_string(), format!("it has more than {WASM_LIMIT} bytes"));
        assert!(started.elapsed().as_millis() < 500);
    }
}
