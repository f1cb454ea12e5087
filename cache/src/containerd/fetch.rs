//! Reads blobs: from containerd's own file if this process can open it, else as a copy over gRPC.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use containerd_client::services::v1::ReadContentRequest;
use rustix::fs::MemfdFlags;

use super::link::{ANSWER, Link, failure, within};
use crate::retry::{is_unavailable, pauses};
use crate::store::{io_error, open_regular};
use crate::{BlobFile, Digest, StoreError, seal};

/// Opens the blob's file under containerd's `root`; `None` if it cannot be opened or has the wrong length.
pub(super) fn local(root: &Path, digest: &Digest, size: u64) -> Option<BlobFile> {
    let path = root.join("blobs/sha256").join(digest.hex());
    match open_regular(&path) {
        Ok((file, length)) if length == size => Some(BlobFile { file, size, path: Some(path) }),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "reading a blob over gRPC");
            None
        }
    }
}

/// Reads a whole blob of `size` bytes and checks its digest.
pub(super) async fn bytes(link: &Link, digest: &Digest, size: u64) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    copy(link, digest, size, |data| {
        bytes.extend_from_slice(data);
        Ok(())
    })
    .await?;
    let actual = Digest::of(&bytes);
    if actual == *digest { Ok(bytes) } else { Err(StoreError::Corrupt { digest: digest.clone(), actual }) }
}

/// Copies a blob of `size` bytes into a sealed memfd.
pub(super) async fn memfd(link: &Link, digest: &Digest, size: u64) -> Result<BlobFile, StoreError> {
    let copy_error = || io_error("copy into memory blob", digest);
    let name = format!("blob-{}", digest.short());
    let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|error| copy_error()(error.into()))?;
    let mut memory = File::from(memory);
    let copied = copy(link, digest, size, |data| memory.write_all(data).map_err(copy_error())).await?;
    if copied != size {
        let actual = Digest::of_file(&memory, copied).map_err(copy_error())?;
        return Err(StoreError::Corrupt { digest: digest.clone(), actual });
    }
    seal(&memory).map_err(copy_error())?;
    // A separate descriptor: read-only like that of a file, with offset 0.
    let file = File::open(format!("/proc/self/fd/{}", memory.as_raw_fd())).map_err(copy_error())?;
    Ok(BlobFile { file, size, path: None })
}

/// Passes at most `size` bytes of the blob to `sink`, in pieces, and returns their number. After an interruption it requests the rest.
async fn copy(
    link: &Link,
    digest: &Digest,
    size: u64,
    mut sink: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    let subject = format!("blob {digest}");
    let mut copied: u64 = 0;
    let mut pauses = pauses();
    while copied < size {
        let offset = i64::try_from(copied).unwrap_or(i64::MAX);
        let request = ReadContentRequest { digest: digest.to_string(), offset, size: 0 };
        let mut stream = link
            .call("read", &subject, link.content(), request, |mut client, r| async move { client.read(r).await })
            .await?;
        let status = loop {
            match within(ANSWER, stream.message()).await {
                Ok(Some(message)) => {
                    let wanted = usize::try_from(size - copied).unwrap_or(usize::MAX);
                    let data = &message.data[..message.data.len().min(wanted)];
                    sink(data)?;
                    copied += data.len() as u64;
                }
                Ok(None) => return Ok(copied),
                Err(status) => break status,
            }
        };
        match pauses.next().filter(|_| is_unavailable(&status)) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(failure("read", &subject, status)),
        }
    }
    Ok(copied)
}
