//! Where things lie that are forgotten at a reboot: sockets and libcontainer's state.
//!
//! Every path is a function of what containerd says on the command line, so that `delete` finds what a daemon left
//! behind without having to be told.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Length of a path in `sockaddr_un`, without the byte that ends it.
const SOCKET_PATH_MAX: usize = 107;

/// Says why a socket cannot have the path that it should have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot use {} as a socket: its path is longer than {SOCKET_PATH_MAX} bytes; choose a shorter PREWASI_RUNTIME_DIR", path.display())]
pub(crate) struct SocketPathError {
    path: PathBuf,
}

/// Returns the socket of the daemon that serves a group of containers.
///
/// # Errors
/// [`SocketPathError`] if the path is too long for a socket.
pub(crate) fn socket(dir: &Path, address: &Path, namespace: &str, group: &str) -> Result<PathBuf, SocketPathError> {
    let path = dir.join(name_of(&[address.as_os_str().as_encoded_bytes(), namespace.as_bytes(), group.as_bytes()]));
    if path.as_os_str().len() > SOCKET_PATH_MAX { Err(SocketPathError { path }) } else { Ok(path) }
}

/// Returns the folder for sockets.
pub(crate) fn sockets() -> PathBuf {
    prewasi_precompiler::runtime_dir().join("s")
}

/// Returns the folder in which libcontainer keeps the state of a namespace's containers.
pub(crate) fn containers(address: &Path, namespace: &str) -> PathBuf {
    let name = name_of(&[address.as_os_str().as_encoded_bytes(), namespace.as_bytes()]);
    prewasi_precompiler::runtime_dir().join("c").join(name)
}

/// Hashes parts, each with its length in front, so that no two lists give the same bytes.
fn name_of(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Address, namespace and group each make a socket of their own.
    #[test]
    fn sockets_differ() {
        let socket = |address: &str, namespace, group| socket(Path::new("/r"), Path::new(address), namespace, group);
        let one = socket("/a", "n", "g").unwrap();
        assert_eq!(socket("/a", "n", "g").unwrap(), one);
        assert_ne!(socket("/b", "n", "g").unwrap(), one);
        assert_ne!(socket("/a", "m", "g").unwrap(), one);
        assert_ne!(socket("/a", "n", "h").unwrap(), one);
        assert_ne!(socket("/a", "ng", "").unwrap(), one);
    }

    /// A path that the kernel would cut is refused.
    #[test]
    fn long_paths_are_refused() {
        let dir = Path::new("/").join("d".repeat(100));
        assert!(socket(&dir, Path::new("/a"), "n", "g").is_err());
    }
}
