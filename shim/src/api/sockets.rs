//! Sockets of daemons, in a folder that may be shared with other shims: since containerd 2.3 all shims share one.
//!
//! This shim connects to, and removes, only sockets with names that it creates itself. A connection that is never accepted occupies a
//! place in a short backlog, and another shim's socket is not this shim's to remove.
//!
//! A daemon removes its socket when it ends; `delete` removes the socket of a daemon that was killed. But containerd calls `delete` only
//! while it has the bundle, and it may have just removed the bundle when a daemon is killed. So each `start` and each `delete` sweeps the
//! folder.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::pod::folders::is_socket_name;

/// Locks a folder until the result is dropped: no other `start` or `delete` makes or removes sockets there.
///
/// # Errors
/// The folder cannot be opened or locked.
pub(crate) fn lock(folder: &Path) -> io::Result<File> {
    let lock = File::open(folder)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

/// Removes sockets of this shim's daemons that have no listener. The caller holds the folder's lock: a socket that was just made has no
/// listener yet.
pub(crate) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let ours = entries.flatten().filter(|entry| is_socket_name(&entry.file_name()));
    for entry in ours.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket())) {
        remove_dead(&entry.path());
    }
}

/// Removes a socket without a listener. The caller has checked that the name is one of this shim's, and holds the folder's lock.
pub(crate) fn remove_dead(path: &Path) {
    if try_connect(path) == Err(Errno::CONNREFUSED) {
        // A socket that stays is removed by the next sweep.
        let _ = fs::remove_file(path);
    }
}

/// Returns whether a process listens on a socket. A full backlog counts as alive; never blocks.
pub(crate) fn is_listened_on(path: &Path) -> bool {
    matches!(try_connect(path), Ok(()) | Err(Errno::AGAIN))
}

/// Returns whether a process listens on a socket and its backlog has room for a connection. Never blocks.
pub(crate) fn can_be_asked(path: &Path) -> bool {
    try_connect(path).is_ok()
}

fn try_connect(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    connect(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?, &SocketAddrUnix::new(path)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("prewasi-sockets-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn left(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// A socket with a listener stays, also with a full backlog; so does a file that is no socket.
    #[test]
    fn only_the_dead_are_swept() {
        let folder = folder("dead");
        let [alive, dead, file] = ["a", "d", "f"].map(|digit| format!("prewasi-{}", digit.repeat(32)));
        let listener = UnixListener::bind(folder.join(&alive)).unwrap();
        drop(UnixListener::bind(folder.join(dead)).unwrap());
        fs::write(folder.join(&file), "").unwrap();
        let _lock = lock(&folder).unwrap();
        sweep(&folder);
        assert_eq!(left(&folder), [alive, file]);
        drop(listener);
        fs::remove_dir_all(folder).unwrap();
    }

    /// Sockets of other shims stay, also without a listener. The sweep never connects to them: a backlog with one place stays empty.
    #[test]
    fn sockets_of_others_are_left_alone() {
        let folder = folder("others");
        let [alive, dead] = ["a", "d"].map(|digit| digit.repeat(64));
        let former = "0".repeat(32);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(folder.join(&alive)).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        drop(UnixListener::bind(folder.join(&dead)).unwrap());
        drop(UnixListener::bind(folder.join(&former)).unwrap());
        let _lock = lock(&folder).unwrap();
        for _ in 0..3 {
            sweep(&folder);
        }
        assert_eq!(rustix::net::accept(&listener).unwrap_err(), Errno::AGAIN, "nobody has connected");
        assert_eq!(left(&folder), [former, alive, dead]);
        fs::remove_dir_all(folder).unwrap();
    }

    /// A listener with a full backlog is alive but cannot be asked; a dead or missing socket is neither.
    #[test]
    fn listeners_are_told_apart() {
        let folder = folder("busy");
        let path = folder.join("s");
        let state = || (is_listened_on(&path), can_be_asked(&path));
        assert_eq!(state(), (false, false));
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        assert!(can_be_asked(&path), "the queue has one place");
        assert_eq!(state(), (true, false));
        drop(listener);
        assert_eq!(state(), (false, false));
        fs::remove_dir_all(folder).unwrap();
    }
}
