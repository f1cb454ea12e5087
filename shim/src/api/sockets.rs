//! Sockets of daemons, in a folder that other shims may use, too: from containerd 2.3 on there is one for all.
//!
//! Only sockets of names that this shim gives are ever connected to or removed. A connection that nobody accepts stays in a
//! queue of a few places, and another shim's socket is not ours to take away.
//!
//! A daemon removes its socket when it ends, and `delete` that of a daemon which could not. But containerd calls `delete`
//! only as long as it has the bundle, which it may just have removed when a daemon is killed. So each `start` and each `delete` sweeps.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::pod::folders::is_socket_name;

/// Keeps others from making sockets in a folder, until the result is dropped.
///
/// # Errors
/// What the system says.
pub(crate) fn lock(folder: &Path) -> io::Result<File> {
    let lock = File::open(folder)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

/// Removes the sockets of this shim's daemons that nobody listens on. The folder must be locked: a socket is not listened on
/// at first.
pub(crate) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let ours = entries.flatten().filter(|entry| is_socket_name(&entry.file_name()));
    for entry in ours.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket())) {
        remove_dead(&entry.path());
    }
}

/// Removes a socket that nobody listens on. Its name must be known as ours, its folder locked.
pub(crate) fn remove_dead(path: &Path) {
    if try_connect(path) == Err(Errno::CONNREFUSED) {
        // What stays is removed the next time.
        let _ = fs::remove_file(path);
    }
}

/// Says whether somebody listens on a socket. One who is busy does; he is not waited for.
pub(crate) fn is_listened_on(path: &Path) -> bool {
    matches!(try_connect(path), Ok(()) | Err(Errno::AGAIN))
}

/// Says whether somebody listens on a socket who has not too much to do to be asked.
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

    /// What is listened on stays, however many wait, and so does what is no socket.
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

    /// Sockets of other shims stay, dead ones too, and nobody connects to them: the queue of one with a single place is as
    /// empty afterwards as before.
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

    /// One who is busy listens but cannot be asked; one that is dead, or not there, does neither.
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
