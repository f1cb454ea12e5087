//! `start`: finds or starts the daemon of a container's pod, and prints its address for containerd.
//!
//! The socket listens before the daemon runs, so containerd can connect as soon as it has the address. Only the answer may be printed:
//! containerd reads standard output and standard error as one.
//!
//! containerd kills this process when its caller gives up, and then makes no call that would end the daemon. So all steps that take time
//! or can fail come before the daemon. A daemon whose address cannot be delivered is ended again.

use std::fs::{self, DirBuilder};
use std::io::{self, IsTerminal as _, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::api::args::Flags;
use crate::api::bootstrap::{Bootstrap, BootstrapError, INPUT_MAX, Reply};
use crate::api::group::group_of;
use crate::api::sockets;
use crate::pod::folders::is_id;
use crate::pod::folders::{self, Socket, SocketPathError};
use crate::pod::program;
use crate::pod::spec::{self, SpecError};
use crate::telemetry::log;

/// Name of the file in the bundle with the address; containerd before 1.7 reads it after a restart.
const ADDRESS_FILE: &str = "address";

/// Variables of containerd's environment that the daemon needs. All others are left out, because a container's processes have a copy.
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
/// Prefixes of further variables that the daemon gets.
const PREFIXES: [&str; 2] = ["PREWASI_", "OTEL_"];

/// The reason why there is no daemon.
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
    #[error("cannot protect the daemon's program file from changes")]
    Program(#[source] io::Error),
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
    let dir = Folder::for_sockets(bootstrap.socket_dir.clone());
    let socket = Socket::new(&dir.path, &flags.address, &flags.namespace, &group)?;
    let reply = bootstrap.reply.for_containerd(|| prewasi_precompiler::containerd_version(&flags.address));
    let answer = |path: &Path| Answer::prepare(reply, path, &bundle);
    find_or_make(&socket, &dir, &mut io::stdout().lock(), answer, |listener| {
        // Stays open until the daemon runs.
        let program = program::sealed().map_err(StartError::Program)?;
        let mut command = daemon(&program, flags, &bundle, &socket.path, &group);
        command.args(["-containerd-level", bootstrap.level.as_str()]);
        if let Some(level) = bootstrap.options.log_level() {
            command.args(["-log-level", level.as_str()]);
        }
        spawn(command, &bootstrap, &bundle, listener)
    })
}

/// The folder for sockets.
struct Folder {
    path: PathBuf,
    /// Mode of a folder that has to be made.
    mode: u32,
}

impl Folder {
    /// Returns the folder that containerd names, which all shims share and create in the same way; else prewasi's own folder.
    fn for_sockets(named: Option<PathBuf>) -> Self {
        named.map_or_else(|| Self { path: folders::sockets(), mode: 0o711 }, |path| Self { path, mode: 0o700 })
    }
}

/// The answer for containerd, ready to be printed.
struct Answer(Vec<u8>);

impl Answer {
    /// Records the address in the bundle, and encodes it in the form that containerd expects.
    fn prepare(reply: Reply, socket: &Path, bundle: &Path) -> Result<Self, StartError> {
        let address = format!("unix://{}", socket.display());
        let address_file = bundle.join(ADDRESS_FILE);
        fs::write(&address_file, &address).map_err(file("write", &address_file))?;
        Ok(Self(reply.encode(&address)?))
    }

    fn give(self, to: &mut dyn io::Write) -> Result<(), StartError> {
        to.write_all(&self.0).and_then(|()| to.flush()).map_err(StartError::Output)
    }
}

fn input() -> Result<Vec<u8>, StartError> {
    let stdin = io::stdin();
    let mut input = Vec::new();
    if !stdin.is_terminal() {
        stdin.lock().take(INPUT_MAX).read_to_end(&mut input).map_err(StartError::Input)?;
    }
    Ok(input)
}

/// Prints the address of the pod's daemon, and starts one if none listens. A lock serialises two calls for one pod. Until the new
/// daemon's address is printed, no other process knows the daemon, so it can be ended if printing fails.
fn find_or_make(
    socket: &Socket,
    dir: &Folder,
    to: &mut dyn io::Write,
    answer: impl Fn(&Path) -> Result<Answer, StartError>,
    make: impl FnOnce(UnixListener) -> Result<Child, StartError>,
) -> Result<(), StartError> {
    DirBuilder::new().recursive(true).mode(dir.mode).create(&dir.path).map_err(file("make", &dir.path))?;
    let _lock = sockets::lock(&dir.path).map_err(file("lock", &dir.path))?;
    sockets::sweep(&dir.path);
    if let Some(path) = [&socket.path, &socket.former].into_iter().find(|path| sockets::is_listened_on(path)) {
        return answer(path)?.give(to);
    }
    let answer = answer(&socket.path)?;
    let made = listen(&socket.path).and_then(make);
    let given = made.and_then(|mut daemon| {
        answer.give(to).inspect_err(|_| {
            // No other process knows this daemon.
            let _ = daemon.kill().and_then(|()| daemon.wait());
        })
    });
    given.inspect_err(|_| {
        // The first error is the one to report.
        let _ = fs::remove_file(&socket.path);
    })
}

/// Makes a socket that only its owner may use, as other shims do.
fn listen(path: &Path) -> Result<UnixListener, StartError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file("remove", path)(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(file("listen on", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(file("keep others from", path))?;
    Ok(listener)
}

/// Makes the command of a daemon, without its action.
fn daemon(program: &OwnedFd, flags: &Flags, bundle: &Path, socket: &Path, group: &str) -> Command {
    // The path becomes the process's name in process lists.
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg0(std::env::args_os().next().unwrap_or_default());
    command.args(["-namespace", &flags.namespace, "-id", &flags.id, "-pod", group]);
    command.arg("-address").arg(&flags.address).arg("-socket").arg(socket).current_dir(bundle);
    command
}

fn spawn(
    mut command: Command,
    bootstrap: &Bootstrap,
    bundle: &Path,
    listener: UnixListener,
) -> Result<Child, StartError> {
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
    command.spawn().map_err(StartError::Spawn)
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with its socket, and a process that plays the daemon.
    struct Subject {
        dir: Folder,
        socket: Socket,
        listeners: Vec<UnixListener>,
        pids: Vec<u32>,
    }

    impl Subject {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("prewasi-start-{name}-{}", std::process::id()));
            let socket = Socket::new(&path, Path::new("/c.sock"), "n", "g").unwrap();
            Self { dir: Folder { path, mode: 0o700 }, socket, listeners: Vec::new(), pids: Vec::new() }
        }

        /// Prints the address of the stand-in daemon, which is started if none listens.
        fn start(&mut self, to: &mut dyn io::Write) -> Result<(), StartError> {
            let answer = |path: &Path| Answer::prepare(Reply::Address, path, &self.dir.path);
            find_or_make(&self.socket, &self.dir, to, answer, |listener| {
                self.listeners.push(listener);
                let child = Command::new("sleep").arg("600").spawn().map_err(StartError::Spawn)?;
                self.pids.push(child.id());
                Ok(child)
            })
        }

        fn answer(&mut self) -> String {
            let mut given = Vec::new();
            self.start(&mut given).unwrap();
            String::from_utf8(given).unwrap()
        }

        fn is_running(&self, nth: usize) -> bool {
            let status = fs::read_to_string(format!("/proc/{}/status", self.pids[nth])).unwrap_or_default();
            status.contains("State:") && !status.contains("State:\tZ")
        }
    }

    impl Drop for Subject {
        fn drop(&mut self) {
            for pid in &self.pids {
                // The process may have ended.
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid.cast_signed()),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            fs::remove_dir_all(&self.dir.path).unwrap();
        }
    }

    /// A socket without a listener is replaced; a socket with a listener is left alone.
    #[test]
    fn sockets_are_used_again() {
        let mut subject = Subject::new("again");
        let address = format!("unix://{}", subject.socket.path.display());
        assert_eq!(subject.answer(), address);
        assert_eq!(subject.answer(), address);
        assert_eq!(subject.pids.len(), 1, "the first one lives");
        subject.listeners.clear();
        assert_eq!(subject.answer(), address);
        assert_eq!(subject.pids.len(), 2);
        assert_eq!(fs::read_to_string(subject.dir.path.join(ADDRESS_FILE)).unwrap(), address);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&subject.dir.path), mode(&subject.socket.path)), (0o700, 0o600));
    }

    /// A daemon from before an upgrade, whose socket has the former name, is found.
    #[test]
    fn former_sockets_are_found() {
        let mut subject = Subject::new("former");
        fs::create_dir(&subject.dir.path).unwrap();
        let former = UnixListener::bind(&subject.socket.former).unwrap();
        assert_eq!(subject.answer(), format!("unix://{}", subject.socket.former.display()));
        assert!(subject.pids.is_empty());
        drop(former);
        assert_eq!(subject.answer(), format!("unix://{}", subject.socket.path.display()));
    }

    /// A daemon whose address cannot be delivered is ended, and its socket removed.
    #[test]
    fn daemon_that_nobody_hears_of_ends() {
        let mut subject = Subject::new("unheard");
        let (reader, mut writer) = std::io::pipe().unwrap();
        drop(reader);
        assert!(matches!(subject.start(&mut writer), Err(StartError::Output(_))));
        assert_eq!((subject.pids.len(), subject.is_running(0), subject.socket.path.exists()), (1, false, false));
    }

    /// No daemon is started after a failure.
    #[test]
    fn nothing_fails_after_the_daemon_is_made() {
        let mut subject = Subject::new("early");
        fs::create_dir_all(subject.dir.path.join(ADDRESS_FILE)).unwrap();
        assert!(matches!(subject.start(&mut Vec::new()), Err(StartError::File { action: "write", .. })));
        assert!(subject.pids.is_empty());
        assert!(!subject.socket.path.exists());
    }
}
