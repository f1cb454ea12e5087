//! The session keyring of a container's processes: a separate one for each container, as with runc, instead of the daemon's.
//!
//! It is joined by name, so that exec processes join the same one. A helper joins it, and the processes that the helper makes inherit it.

use std::ffi::CString;
use std::fs;
use std::io;

use nix::libc;

const JOIN_SESSION_KEYRING: libc::c_int = 1;
const SETPERM: libc::c_int = 5;
/// Permissions of the keyring: all for its possessor; view, read, search and link for the node's root.
const PERMISSIONS: libc::c_uint = 0x3f1b_0000;
/// The file that sets the SELinux label of new keys.
const LABEL: &str = "/proc/thread-self/attr/keycreate";

/// Joins this process to the session keyring of a container. `label` is the keyring's SELinux label.
///
/// # Errors
/// The system's error. A kernel without keyrings is no error.
pub(crate) fn join(container: &str, label: Option<&str>) -> io::Result<()> {
    let name = CString::new(format!("_ses.{container}"))?;
    if let Some(label) = label {
        fs::write(LABEL, label)?;
    }
    // SAFETY: the kernel reads one terminated string.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    let joined = if joined < 0 { Err(io::Error::last_os_error()) } else { Ok(joined) };
    if label.is_some() {
        // An empty line resets the label.
        fs::write(LABEL, "\n")?;
    }
    let keyring = match joined {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => return Ok(()),
        joined => joined?,
    };
    // The kernel returns 0 if the process has this keyring already. SAFETY: the arguments are numbers only.
    if keyring != 0 && unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, keyring, PERMISSIONS) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A process joins the keyring of that name, and can join it again.
    #[test]
    fn keyrings_are_joined() {
        const ASKED: &str = "PREWASI_TEST_KEYRING";
        if std::env::var_os(ASKED).is_none() {
            let mut again = Command::new("/proc/self/exe");
            again.args(["--exact", "keyring::tests::keyrings_are_joined"]).env(ASKED, "1");
            let output = again.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        let name = format!("prewasi-test-{}", std::process::id());
        for _ in 0..2 {
            join(&name, None).unwrap();
            let keys = fs::read_to_string("/proc/keys").unwrap();
            let found = keys.lines().filter(|line| line.contains(&format!(" _ses.{name}:"))).count();
            assert_eq!(found, 1, "{keys}");
        }
    }
}
