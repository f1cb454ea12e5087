//! The daemon of one pod: a process with one thread that serves the task API and waits for the pod's processes.
//!
//! The daemon forks once, before it has a runtime and before it knows a container. The child is the zygote, from which all other
//! processes are forked (see [`crate::pod::helper`]). No other process has a copy of the daemon's later memory.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signalfd::SignalFd;
use tokio::time::Instant;
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::api::args::Flags;
use crate::api::events::Events;
use crate::api::service;
use crate::engine::EngineConstructor;
use crate::pod::calls::Pod;
use crate::pod::helper::{Helpers, Zygote};
use crate::pod::job::Job;
use crate::pod::program;
use crate::pod::reaper::{self, Reaper};
use crate::telemetry::log;
use crate::telemetry::trace::{Config, Traces, wipe_headers};

/// Time limit for sending the last events when the daemon ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);
/// Time limit for sending the last spans when the daemon ends.
const SPANS_LIMIT: Duration = Duration::from_secs(5);

/// The reason why the daemon cannot serve.
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
    #[error("cannot fork helpers any more: the zygote has ended with status {status}")]
    Zygote { status: u32 },
}

/// Serves until containerd calls `Shutdown`. Standard input is the listening socket.
///
/// # Errors
/// [`DaemonError`].
pub(crate) fn run(flags: &Flags, engine: EngineConstructor) -> Result<(), DaemonError> {
    // The daemon is executed by a descriptor's path: without a name, process lists would show the descriptor's number.
    rustix::thread::set_name(c"containerd-shim").map_err(|error| DaemonError::Process(error.into()))?;
    spare();
    let variable = |name: &str| std::env::var(name).ok();
    log::to_copy(flags.level(), flags.log_level, Config::is_wanted(&variable)).map_err(DaemonError::Process)?;
    let listener = take_listener().map_err(DaemonError::Socket)?;
    let zygote = Zygote::start(engine).map_err(DaemonError::Process)?;
    let traces = traces(&variable);
    // Orphans of the pod's processes become children of the daemon, which reaps them.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| DaemonError::Process(error.into()))?;
    let signals = reaper::signals().map_err(DaemonError::Process)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DaemonError::Runtime)?;
    runtime.block_on(serve(flags, listener, signals, zygote, traces))
}

async fn serve(
    flags: &Flags,
    listener: UnixListener,
    signals: SignalFd,
    zygote: Zygote,
    traces: Traces,
) -> Result<(), DaemonError> {
    let reaper = Arc::new(Reaper::default());
    let zygote_end = reaper.watch(zygote.pid());
    let helpers = Helpers::new(zygote, reaper.clone(), traces.clone()).map_err(DaemonError::Process)?;
    let address = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    let events = Events::start(address, flags.namespace.clone());
    tokio::spawn(send_traces(traces.clone(), helpers.clone()));
    let shim = Arc::new(Pod::new(flags, helpers, events.clone(), traces.clone()));
    tokio::spawn(shim.clone().finish_removals());
    let listener = Listener::try_from(listener).map_err(DaemonError::Socket)?;
    let mut server = Server::new().add_listener(listener).register_service(service::services(&shim));
    server.start().await.map_err(DaemonError::Serve)?;
    let abandoned = shim.clone();
    tokio::spawn(async move { abandoned.end_when_abandoned().await });
    tokio::spawn(async move {
        if let Err(error) = reaper.run(signals).await {
            tracing::error!(%error, "cannot wait for children any more");
        }
    });
    tracing::info!(namespace = flags.namespace, pod = flags.pod, pid = std::process::id(), "shim daemon started");
    if program::is_copy() {
        tracing::warn!(
            "each daemon has a copy of the shim in memory: the kernel does not give it a read-only mount of the file"
        );
    }
    let ended = tokio::select! {
        () = shim.wait_for_shutdown() => Ok(()),
        // Without the zygote no container can be created, started or removed. containerd cleans up after a daemon that is gone.
        exit = zygote_end => Err(DaemonError::Zygote { status: exit.map_or(0, |exit| exit.status) }),
    };
    if let Err(error) = &ended {
        tracing::error!(%error, namespace = flags.namespace, pod = flags.pod, "shim daemon failed");
    }
    remove_socket(&flags.socket);
    traces.flush(Instant::now() + SPANS_LIMIT).await;
    events.flush(FLUSH_LIMIT).await;
    // Time for the response to the call that ended the daemon.
    tokio::time::sleep(Duration::from_millis(10)).await;
    // How the connections end does not matter.
    let _ = server.shutdown().await;
    tracing::info!(namespace = flags.namespace, pod = flags.pod, "shim daemon ended");
    ended
}

/// Raises the OOM score of the daemon and its forks by one. So the OOM killer picks them slightly before containerd, and a container long
/// before them.
fn spare() {
    const SCORE: &str = "/proc/self/oom_score_adj";
    let adjusted = fs::read_to_string(SCORE)
        .and_then(|own| own.trim().parse::<i32>().map_err(io::Error::other))
        .and_then(|own| fs::write(SCORE, (own + 1).min(1000).to_string()));
    if adjusted.is_err() {
        // The score is only a preference.
    }
}

/// Sends spans as long as the daemon lives; at most one export helper runs at a time.
async fn send_traces(traces: Traces, helpers: Helpers) {
    while let Some(export) = traces.due().await {
        let count = export.spans.len();
        let failure = helpers.work(Job::Export(export)).await.err();
        traces.sent(count, failure.as_ref().map(|failure| failure.message.as_str()));
    }
}

/// Returns the collection of spans that the environment configures. A wrong setting is logged and otherwise ignored.
fn traces(variable: &dyn Fn(&str) -> Option<String>) -> Traces {
    let program = std::env::args_os().next().map(PathBuf::from);
    let program = program.as_deref().and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or("containerd-shim");
    let (config, warnings) = Config::read(variable, program);
    wipe_headers();
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Traces::new(config)
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
