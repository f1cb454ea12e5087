//! Sockets of daemons that were killed.
//!
//! A daemon removes its socket when it ends, and `delete` that of a daemon which could not. But containerd calls `delete`
//! only as long as it has the bundle, which it may just have removed when a daemon is killed. So whoever comes by sweeps.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// Keeps others from making sockets in a folder, until the result is dropped.
///
/// # Errors
/// What the system says.
pub(crate) fn lock(folder: &Path) -> io::Result<File> {
    let lock = File::open(folder)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

/// Removes the sockets in a folder that nobody listens on. The folder must be locked: a socket is not listened on at first.
pub(crate) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket())) {
        if is_dead(&entry.path()) {
            // What stays is swept the next time.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Says whether nobody listens on a socket. One who is busy does listen; he is not waited for.
fn is_dead(path: &Path) -> bool {
    let connected = SocketAddrUnix::new(path).and_then(|address| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        connect(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?, &address)
    });
    connected == Err(rustix::io::Errno::CONNREFUSED)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What is listened on stays, however many wait, and so does what is no socket.
    #[test]
    fn only_the_dead_are_swept() {
        let folder = std::env::temp_dir().join(format!("prewasi-sockets-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let alive = UnixListener::bind(folder.join("alive")).unwrap();
        drop(UnixListener::bind(folder.join("dead")).unwrap());
        fs::write(folder.join("file"), "").unwrap();
        let _lock = lock(&folder).unwrap();
        sweep(&folder);
        let mut left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["alive", "file"]);
        drop(alive);
        fs::remove_dir_all(folder).unwrap();
    }
}
