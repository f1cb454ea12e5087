//! Logging programs: containerd's `binary://` and `binary-v2://` streams.
//!
//! The URI names a program and, in its query, its arguments. The program is started once for each container, with only `CONTAINER_ID` and
//! `CONTAINER_NAMESPACE` in its environment. It gets three pipes: the container's output as descriptor 3, its errors as 4, and 5 to
//! report that it is ready. It ends by itself when both outputs have ended, and survives the daemon.
//!
//! A program of `binary://` is ready when it closes descriptor 5, or ends. A program of `binary-v2://` must write a byte before: so an
//! early end differs from readiness.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::node::readiness;
use crate::percent::decode;

/// Time limit for a program to become ready.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// A logging program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Logger {
    program: PathBuf,
    args: Vec<String>,
    /// Whether it reports readiness by a byte.
    #[serde(default)]
    strict: bool,
}

/// The reason why a logging program does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoggerError {
    #[error("cannot start logging program {}", program.display())]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot use logging program {}: it was not ready after {} s", program.display(), READY_LIMIT.as_secs())]
    NotReady { program: PathBuf },
    #[error(
        "cannot use logging program {}: it has closed descriptor 5 without writing a byte on it, as binary-v2:// demands; it may have ended", program.display()
    )]
    SaidNothing { program: PathBuf },
    #[error("cannot wait for logging program {}", program.display())]
    Ready {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Logger {
    /// Parses the part after `binary://`, or after `binary-v2://` in the strict form: a path, and arguments as `name=value` or `name`,
    /// joined by `&`.
    pub(super) fn parse(uri: &str, strict: bool) -> Option<Self> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let program = PathBuf::from(decode(path, false)?);
        if !program.is_absolute() {
            return None;
        }
        let mut args: Vec<String> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            args.extend([decode(name, true)?, decode(value, true)?]);
        }
        Some(Self { program, args, strict })
    }

    /// Starts the program, waits until it is ready, and returns the pipes for output and errors.
    pub(super) async fn start(&self, id: &str, namespace: &str) -> Result<[OwnedFd; 2], LoggerError> {
        let failed = |source| LoggerError::Start { program: self.program.clone(), source };
        let pipe = || io::pipe().map_err(failed);
        let ((out, out_writer), (err, err_writer), (ready, ready_writer)) = (pipe()?, pipe()?, pipe()?);
        let mut child = self.spawn(id, namespace, [&out, &err], &ready_writer).map_err(failed)?;
        drop((out, err, ready_writer));
        let program = || self.program.clone();
        let ready = match tokio::time::timeout(READY_LIMIT, wait(ready)).await {
            Err(_) => Err(LoggerError::NotReady { program: program() }),
            Ok(Err(source)) => Err(LoggerError::Ready { program: program(), source }),
            Ok(Ok(said)) if self.strict && !said => Err(LoggerError::SaidNothing { program: program() }),
            Ok(Ok(_)) => Ok(()),
        };
        ready.inspect_err(|_| {
            // The reaper waits for it, as for all other children.
            let _ = child.kill();
        })?;
        Ok([out_writer.into(), err_writer.into()])
    }

    fn spawn(
        &self,
        id: &str,
        namespace: &str,
        [out, err]: [&PipeReader; 2],
        ready: &PipeWriter,
    ) -> io::Result<std::process::Child> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .envs([("CONTAINER_ID", id), ("CONTAINER_NAMESPACE", namespace)])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(File::options().write(true).open("/dev/null")?));
        let fds = [out.as_raw_fd(), err.as_raw_fd(), ready.as_raw_fd()];
        // SAFETY: the closure calls only dup2, fcntl and sigprocmask, and does not allocate.
        unsafe { command.pre_exec(move || hand_over(fds)) };
        command.spawn()
    }
}

/// Moves three descriptors to 3, 4 and 5, in a process that is about to execute a program. They may have these numbers already in another
/// order: all are first copied elsewhere.
fn hand_over(mut fds: [i32; 3]) -> io::Result<()> {
    for fd in &mut fds {
        // SAFETY: fcntl has no memory effects.
        *fd = unsafe { libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, 16) };
        if *fd < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    for (fd, target) in fds.into_iter().zip(3..) {
        // SAFETY: dup2 has no memory effects; the former descriptor of that number belongs to this process, which is about to exec.
        if unsafe { libc::dup2(fd, target) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // The daemon blocks SIGCHLD, which the program would inherit.
    Ok(nix::sys::signal::sigprocmask(
        nix::sys::signal::SigmaskHow::SIG_SETMASK,
        Some(&nix::sys::signal::SigSet::empty()),
        None,
    )?)
}

/// Waits until the program closes its end, or writes to it; returns whether it has written.
async fn wait(ready: PipeReader) -> io::Result<bool> {
    rustix::io::ioctl_fionbio(&ready, true)?;
    let ready = readiness::watch(ready.into())?;
    let read = ready.async_io(tokio::io::Interest::READABLE, |ready| Ok(rustix::io::read(ready, &mut [0; 1])?)).await?;
    Ok(read > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The query contains the arguments, in their order, with resolved escapes.
    #[test]
    fn uris() {
        let parse = |uri| Logger::parse(uri, false).map(|logger| (logger.program, logger.args));
        let args = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
        assert_eq!(parse("/bin/log"), Some(("/bin/log".into(), vec![])));
        assert_eq!(
            parse("/my%20log?b=1%2b1&a=x+y&flag"),
            Some(("/my log".into(), args(&["b", "1+1", "a", "x y", "flag", ""])))
        );
        for bad in ["", "log", "/a%zz", "/a%2", "/a?%ff=1", "/a%+1"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
