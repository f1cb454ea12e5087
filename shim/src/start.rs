//! `start`: finds the daemon of a container's pod, or makes one, and tells containerd its address.
//!
//! The socket listens before the daemon runs, so containerd can connect as soon as it has the address. Nothing but the
//! answer may be printed: containerd reads both streams as one.

use std::fs::{self, DirBuilder};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::args::Flags;
use crate::bootstrap::{Bootstrap, BootstrapError, INPUT_MAX};
use crate::folders::{self, SocketPathError};
use crate::group::group_of;
use crate::log;
use crate::options::RuntimeOptions;
use crate::shim::is_id;
use crate::sockets;
use crate::spec::{self, SpecError};

/// Name of the file in the bundle with the address; containerd before 1.7 reads it after a restart.
const ADDRESS_FILE: &str = "address";

/// What a daemon needs to know of containerd's environment. Everything else stays out of it: a container's processes
/// are forked from the daemon.
const ENVIRONMENT: [&str; 8] = [
    "PATH",
    "TMPDIR",
    "TTRPC_ADDRESS",
    "GRPC_ADDRESS",
    "NAMESPACE",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
];
/// Beginnings of further names that a daemon is told.
const PREFIXES: [&str; 2] = ["PREWASI_", "OTEL_"];

/// Says why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot use {id:?} as the id of a container")]
    Id { id: String },
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    SocketPath(#[from] SocketPathError),
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the daemon")]
    Spawn(#[source] io::Error),
    #[error("cannot print the address")]
    Output(#[source] io::Error),
}

/// Prints the address of the daemon that serves the container's pod.
///
/// # Errors
/// [`StartError`].
pub(crate) fn run(flags: &Flags) -> Result<(), StartError> {
    if !is_id(&flags.id) {
        return Err(StartError::Id { id: flags.id.clone() });
    }
    let input = input()?;
    let bootstrap = Bootstrap::read(&input, flags, |name| std::env::var(name).ok())?;
    let bundle = match &flags.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(file("find the bundle in", Path::new(".")))?,
    };
    let group = group_of(&flags.id, &spec::annotations(&bundle)?);
    let dir = bootstrap.socket_dir.clone().unwrap_or_else(folders::sockets);
    let socket = folders::socket(&dir, &flags.address, &flags.namespace, &group)?;
    find_or_make(&socket, &dir, |listener| {
        let mut command = daemon(flags, &bundle, &socket, &group);
        command.args(bootstrap.debug.then_some("-debug"));
        if let Some(level) = RuntimeOptions::from_input(&input).log_level() {
            command.args(["-log-level", level.as_str()]);
        }
        spawn(command, &bootstrap, &bundle, listener)
    })?;

    let address = format!("unix://{}", socket.display());
    let address_file = bundle.join(ADDRESS_FILE);
    fs::write(&address_file, &address).map_err(file("write", &address_file))?;
    let reply = bootstrap.reply.for_containerd(|| prewasi_precompiler::containerd_version(&flags.address));
    let reply = reply.encode(&address)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&reply).and_then(|()| stdout.flush()).map_err(StartError::Output)
}

fn input() -> Result<Vec<u8>, StartError> {
    let stdin = io::stdin();
    let mut input = Vec::new();
    if !stdin.is_terminal() {
        stdin.lock().take(INPUT_MAX).read_to_end(&mut input).map_err(StartError::Input)?;
    }
    Ok(input)
}

/// Leaves a socket alone that is answered, else makes one and gives it away. Two calls for one pod wait for each other.
fn find_or_make(
    socket: &Path,
    dir: &Path,
    make: impl FnOnce(UnixListener) -> Result<(), StartError>,
) -> Result<(), StartError> {
    DirBuilder::new().recursive(true).mode(0o711).create(dir).map_err(file("make", dir))?;
    let _lock = sockets::lock(dir).map_err(file("lock", dir))?;
    sockets::sweep(dir);
    if UnixStream::connect(socket).is_ok() {
        return Ok(());
    }
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file("remove", socket)(error)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(file("listen on", socket))?;
    make(listener).inspect_err(|_| {
        // The error that counts is the first one.
        let _ = fs::remove_file(socket);
    })
}

/// Makes the command of a daemon, without its action.
fn daemon(flags: &Flags, bundle: &Path, socket: &Path, group: &str) -> Command {
    // The binary that runs now, even if an upgrade has replaced its file; under its own name in a list of processes.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(std::env::args_os().next().unwrap_or_default());
    command.args(["-namespace", &flags.namespace, "-id", &flags.id, "-pod", group]);
    command.arg("-address").arg(&flags.address).arg("-socket").arg(socket).current_dir(bundle);
    command
}

fn spawn(mut command: Command, bootstrap: &Bootstrap, bundle: &Path, listener: UnixListener) -> Result<(), StartError> {
    let log = log::open(bundle).map_err(file("open", Path::new("/dev/null")))?;
    let known = |name: &str| ENVIRONMENT.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let environment = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(known));
    command
        .arg("daemon")
        .env_clear()
        .envs(environment)
        .env("TTRPC_ADDRESS", &bootstrap.ttrpc_address)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::from(log));
    let daemon = command.spawn().map_err(StartError::Spawn)?;
    spare(daemon.id());
    Ok(())
}

/// Makes the daemon a little more likely to be taken for want of memory than containerd, and much less than a container.
fn spare(pid: u32) {
    let adjusted = fs::read_to_string("/proc/self/oom_score_adj")
        .and_then(|own| own.trim().parse::<i32>().map_err(io::Error::other))
        .and_then(|own| fs::write(format!("/proc/{pid}/oom_score_adj"), (own + 1).min(1000).to_string()));
    if adjusted.is_err() {
        // Only a preference.
    }
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket that nobody answers is replaced; one that is answered is left alone.
    #[test]
    fn sockets_are_used_again() {
        let dir = std::env::temp_dir().join(format!("prewasi-start-{}", std::process::id()));
        let socket = dir.join("s");
        let mut made = Vec::new();
        find_or_make(&socket, &dir, |listener| {
            made.push(listener);
            Ok(())
        })
        .unwrap();
        find_or_make(&socket, &dir, |_| panic!("the first one lives")).unwrap();
        made.clear();
        find_or_make(&socket, &dir, |listener| {
            made.push(listener);
            Ok(())
        })
        .unwrap();
        assert_eq!(made.len(), 1);
        fs::remove_dir_all(dir).unwrap();
    }
}
