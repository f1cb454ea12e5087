//! Replacements for functions of the C library that would run code of an image.
//!
//! In a container `getpwuid_r` and `getaddrinfo` obey the image's `/etc/nsswitch.conf`, and load the libraries that it names.
//! libcontainer calls `getpwuid_r` in each process of a container, also in native ones, to set the variable HOME. Engines written in C
//! have functions that call `getaddrinfo`. A program's own definition has precedence over a library's, so all linked code calls these. A
//! test of each program lists the other functions of this kind, which must not be linked in (`test/tests/names.rs`).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use nix::libc;

/// Finds a user in `/etc/passwd` and nowhere else.
///
/// # Safety
/// As in the C library: `entry` and `result` must be writable, and so must `buffer`, for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getpwuid_r(
    uid: libc::uid_t,
    entry: *mut libc::passwd,
    buffer: *mut c_char,
    length: libc::size_t,
    result: *mut *mut libc::passwd,
) -> c_int {
    // SAFETY: the caller guarantees that it is writable.
    unsafe { result.write(ptr::null_mut()) };
    let user = match prewasi_names::user(uid) {
        Ok(Some(user)) => user,
        Ok(None) => return 0,
        Err(_) => return libc::EIO,
    };
    let texts = user.texts().map(CStr::to_bytes_with_nul);
    // Two fields are not revealed: the password and the comment.
    let texts = [texts[0], texts[1], texts[2], c"x".to_bytes_with_nul(), c"".to_bytes_with_nul()];
    if texts.iter().map(|text| text.len()).sum::<usize>() > length {
        return libc::ERANGE;
    }
    let mut end = buffer;
    let [name, home, shell, password, remark] = texts.map(|text| {
        let start = end;
        // SAFETY: the buffer has room for all texts, which are written one after the other.
        unsafe {
            ptr::copy_nonoverlapping(text.as_ptr().cast(), start, text.len());
            end = start.add(text.len());
        }
        start
    });
    let found = libc::passwd {
        pw_name: name,
        pw_passwd: password,
        pw_uid: uid,
        pw_gid: user.gid,
        pw_gecos: remark,
        pw_dir: home,
        pw_shell: shell,
    };
    // SAFETY: the caller guarantees that both are writable.
    unsafe {
        entry.write(found);
        result.write(entry);
    }
    0
}

/// Always fails. [`prewasi_names::lookup`] looks hosts up.
#[unsafe(no_mangle)]
extern "C" fn getaddrinfo(_: *const c_char, _: *const c_char, _: *const c_void, _: *mut *mut c_void) -> c_int {
    libc::EAI_FAIL
}

#[cfg(test)]
mod tests {
    use std::net::ToSocketAddrs as _;

    use nix::unistd::{Uid, User};

    /// The C library's function for users reads the list, with a sufficient buffer.
    #[test]
    fn users_are_found() {
        let root = User::from_uid(Uid::from_raw(0)).unwrap().unwrap();
        let line = std::fs::read_to_string("/etc/passwd").unwrap();
        let home = line.lines().find(|line| line.starts_with("root:")).unwrap().split(':').nth(5).unwrap().to_owned();
        assert_eq!((root.name.as_str(), root.dir.to_str(), root.gid.as_raw()), ("root", Some(home.as_str()), 0));
        assert_eq!(root.passwd.to_str(), Ok("x"));
        assert_eq!(User::from_uid(Uid::from_raw(4_000_000_000)), Ok(None));
        let mut buffer = [0; 3];
        // SAFETY: all arguments point to writable memory of this function.
        let code = unsafe {
            let mut entry = std::mem::zeroed();
            super::getpwuid_r(0, &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut std::ptr::null_mut())
        };
        assert_eq!(code, nix::libc::ERANGE);
    }

    /// The C library's function for hosts fails.
    #[test]
    fn hosts_are_not_found() {
        assert!(("localhost", 80).to_socket_addrs().is_err());
    }
}
