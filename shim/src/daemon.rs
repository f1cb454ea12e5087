//! The daemon of one pod: a process with one thread that serves the task API and waits for the pod's processes.
//!
//! The main thread alternates between the runtime, in which everything asynchronous happens, and the forks that were
//! asked for, which happen outside it. So a forked child never finds a runtime entered or a lock held.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::args::Flags;
use crate::command::EngineConstructor;
use crate::events::Events;
use crate::helper::{ForkRequest, Helpers};
use crate::log;
use crate::reaper::{self, Reaper};
use crate::service;
use crate::shim::Shim;
use crate::trace::{Config, Traces, wipe_headers};

/// How long the last events may take when the daemon ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);
/// How long the last spans may take when the daemon ends.
const SPANS_LIMIT: Duration = Duration::from_secs(5);

/// Says why the daemon cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error("cannot take over the socket")]
    Socket(#[source] io::Error),
    #[error("cannot set up the process")]
    Process(#[source] io::Error),
    #[error("cannot set up a runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot serve the task API")]
    Serve(#[source] ttrpc::Error),
}

/// What the main thread is to do next.
enum Next {
    Fork(ForkRequest),
    Shutdown,
}

/// Serves until containerd asks it to end. Standard input is the listening socket.
///
/// # Errors
/// [`DaemonError`].
pub(crate) fn run(flags: &Flags, engine: EngineConstructor) -> Result<(), DaemonError> {
    // Started through /proc/self/exe, it would show as `exe` in lists of processes.
    rustix::thread::set_name(c"containerd-shim").map_err(|error| DaemonError::Process(error.into()))?;
    let traces = log_and_trace(flags)?;
    let listener = take_listener().map_err(DaemonError::Socket)?;
    // Orphans of the pod's processes become children of the daemon, which waits for them.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| DaemonError::Process(error.into()))?;
    let signals = reaper::signals().map_err(DaemonError::Process)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DaemonError::Runtime)?;
    let reaper = Arc::new(Reaper::default());
    let (helpers, mut requests) = Helpers::new(reaper.clone(), traces.clone());
    let address = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    let (shim, events, mut server) = runtime.block_on(async {
        let events = Events::start(address, flags.namespace.clone());
        tokio::spawn(traces.clone().send(helpers.clone()));
        let shim = Arc::new(Shim::new(flags, helpers, events.clone(), traces.clone()));
        let listener = Listener::try_from(listener).map_err(DaemonError::Socket)?;
        let mut server = Server::new().add_listener(listener).register_service(service::services(&shim));
        server.start().await.map_err(DaemonError::Serve)?;
        let reaper = reaper.clone();
        tokio::spawn(async move {
            if let Err(error) = reaper.run(signals).await {
                tracing::error!(%error, "cannot wait for children any more");
            }
        });
        Ok::<_, DaemonError>((shim, events, server))
    })?;
    tracing::info!(namespace = flags.namespace, pod = flags.pod, pid = std::process::id(), "shim daemon started");
    while let Next::Fork(request) = runtime.block_on(next(shim.wait_for_shutdown(), &mut requests)) {
        request.fork(&reaper, engine);
    }
    remove_socket(&flags.socket);
    let deadline = Instant::now() + SPANS_LIMIT;
    // The last spans need a helper too.
    while let Next::Fork(request) = runtime.block_on(next(traces.flush(deadline), &mut requests)) {
        request.fork(&reaper, engine);
    }
    runtime.block_on(async {
        events.flush(FLUSH_LIMIT).await;
        // Lets the answer to the call that ended the daemon out first.
        tokio::time::sleep(Duration::from_millis(10)).await;
        // It does not matter how the connections end.
        let _ = server.shutdown().await;
    });
    tracing::info!(namespace = flags.namespace, pod = flags.pod, "shim daemon ended");
    Ok(())
}

async fn next(end: impl Future<Output = ()>, requests: &mut UnboundedReceiver<ForkRequest>) -> Next {
    tokio::select! {
        biased;
        request = requests.recv() => request.map_or(Next::Shutdown, Next::Fork),
        () = end => Next::Shutdown,
    }
}

/// Begins to log, and to trace if the environment asks for it. What is wrong with that is said, and no more.
fn log_and_trace(flags: &Flags) -> Result<Traces, DaemonError> {
    let program = std::env::args_os().next().map(PathBuf::from);
    let program = program.as_deref().and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or("containerd-shim");
    let (config, warnings) = Config::read(&|name| std::env::var(name).ok(), program);
    wipe_headers();
    log::to_copy(flags.debug, flags.log_level, config.is_some()).map_err(DaemonError::Process)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(Traces::new(config))
}

/// Takes the listening socket from standard input and puts `/dev/null` there.
fn take_listener() -> io::Result<UnixListener> {
    let socket: OwnedFd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::stdio::dup2_stdin(fs::File::open("/dev/null")?)?;
    let listener = UnixListener::from(socket);
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn remove_socket(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "cannot remove the socket");
        }
        _ => {}
    }
}
