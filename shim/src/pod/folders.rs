//! Paths of state that is lost at a reboot: sockets and libcontainer's state.
//!
//! Every path is a function of containerd's command line, so that `delete` finds the remains of a daemon without further information.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Longest path in `sockaddr_un`, in bytes, without the terminating byte.
const SOCKET_PATH_MAX: usize = 107;
/// Prefix of socket names. Since containerd 2.3 all shims share a folder for their sockets, and other shims also use hashes as names.
const PREFIX: &str = "prewasi-";
/// Number of hex digits of a hash in a name.
const HASH_DIGITS: usize = 32;

/// The reason why a socket cannot have its path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot use {} as a socket: its path is longer than {SOCKET_PATH_MAX} bytes; choose a shorter PREWASI_RUNTIME_DIR, or socket_dir in containerd's configuration", path.display())]
pub(crate) struct SocketPathError {
    path: PathBuf,
}

/// The socket of the daemon that serves a group of containers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) path: PathBuf,
    /// The socket of a daemon from before an upgrade, whose name is the hash alone.
    pub(crate) former: PathBuf,
}

impl Socket {
    /// Computes the paths in a folder.
    ///
    /// # Errors
    /// [`SocketPathError`] if the path is too long for a socket.
    pub(crate) fn new(dir: &Path, address: &Path, namespace: &str, group: &str) -> Result<Self, SocketPathError> {
        let hash = name_of(&[address.as_os_str().as_encoded_bytes(), namespace.as_bytes(), group.as_bytes()]);
        let path = dir.join(format!("{PREFIX}{hash}"));
        if path.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(SocketPathError { path });
        }
        Ok(Self { path, former: dir.join(hash) })
    }
}

/// Returns whether a name has the form of [`Socket::new`].
pub(crate) fn is_socket_name(name: &OsStr) -> bool {
    let hash = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).unwrap_or_default();
    hash.len() == HASH_DIGITS && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns the folder for sockets, if containerd does not name one.
pub(crate) fn sockets() -> PathBuf {
    prewasi_precompiler::runtime_dir().join("s")
}

/// Returns the folder of a container, with its helper's claim and libcontainer's state, which is in a subfolder named by the id.
pub(crate) fn container(address: &Path, namespace: &str, id: &str) -> PathBuf {
    containers(address, namespace).join(id)
}

/// Returns the folder that contains those of all containers of a namespace.
pub(crate) fn containers(address: &Path, namespace: &str) -> PathBuf {
    let name = name_of(&[address.as_os_str().as_encoded_bytes(), namespace.as_bytes()]);
    prewasi_precompiler::runtime_dir().join("c").join(name)
}

/// Returns the folder for records of removals.
pub(crate) fn removals() -> PathBuf {
    prewasi_precompiler::runtime_dir().join("r")
}

/// Hashes parts, each preceded by its length, so that no two lists give the same bytes.
pub(crate) fn name_of(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()[..HASH_DIGITS / 2].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns whether an id can be the name of a folder; containerd makes the same check.
pub(crate) fn is_id(id: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+');
    !id.is_empty() && id.chars().all(good) && Path::new(id).components().count() == 1 && id != ".." && id != "."
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text that could lead to another folder is no id.
    #[test]
    fn ids() {
        for good in ["a", "wasm-1.0_x", "a..b"] {
            assert!(is_id(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "/a", "a\0", "a b"] {
            assert!(!is_id(bad), "{bad:?}");
        }
    }

    /// Different addresses, namespaces and groups have different sockets, and the names are recognised.
    #[test]
    fn sockets_differ() {
        let socket = |address: &str, namespace, group| {
            Socket::new(Path::new("/r"), Path::new(address), namespace, group).unwrap().path
        };
        let one = socket("/a", "n", "g");
        assert_eq!(socket("/a", "n", "g"), one);
        for other in [socket("/b", "n", "g"), socket("/a", "m", "g"), socket("/a", "n", "h"), socket("/a", "ng", "")] {
            assert_ne!(other, one);
            assert!(is_socket_name(other.file_name().unwrap()));
        }
    }

    /// Socket names of other shims are not recognised: hashes of any length, and names with a similar beginning.
    #[test]
    fn names_of_others_are_not_ours() {
        let former = Socket::new(Path::new("/r"), Path::new("/a"), "n", "g").unwrap().former;
        assert!(!is_socket_name(former.file_name().unwrap()));
        let hash = "0123456789abcdef";
        for name in [hash.repeat(4), hash.repeat(2), format!("{PREFIX}{hash}"), format!("{PREFIX}{}", "X".repeat(32))] {
            assert!(!is_socket_name(OsStr::new(&name)), "{name}");
        }
        assert!(is_socket_name(OsStr::new(&format!("{PREFIX}{}", hash.repeat(2)))));
    }

    /// A path that the kernel would truncate is refused; the longest folder that containerd accepts leaves room.
    #[test]
    fn long_paths_are_refused() {
        let socket = |length: usize| Socket::new(&Path::new("/").join("d".repeat(length)), Path::new("/a"), "n", "g");
        assert!(socket(100).is_err());
        assert!(socket(41).is_ok());
    }
}
