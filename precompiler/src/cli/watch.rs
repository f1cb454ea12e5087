//! `watch`: the service that compiles the images that a node pulls.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;

use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use prewasi_engines::Engine;
use rustix::thread::CpuSet;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;

use super::tuning::ConfigArgs;
use super::{AddressArgs, Status, conclude, settings};
use crate::watch::{self, Watch as Plan};
use crate::{PrepareError, StoreAddress, report};

/// Compile images as they are pulled, before a pod asks for them
///
/// Runs until SIGTERM or SIGINT. It also compiles the images that are already there.
#[derive(Debug, Args)]
pub(super) struct Watch {
    #[command(flatten)]
    containerd: AddressArgs,
    /// Namespace of containerd to watch; may be repeated [default: all]
    #[arg(long, short, value_name = "NAME")]
    namespace: Vec<String>,
    /// Address for HTTP: /metrics for Prometheus, /healthz, /readyz
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// Number of images to compile at a time [default: compile_slots of the configuration]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroU16>,
    /// Number of cores for compiling [default: all]
    #[arg(long, value_name = "N")]
    cpus: Option<NonZeroU16>,
    /// Label of images (`ctr images label`) with a number; the lowest number is compiled first. Images without the label come
    /// after those, the smallest first
    #[arg(long, value_name = "LABEL")]
    rank_label: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// The service could not be set up.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot limit the service to {cpus} cores")]
    Cpus {
        cpus: u16,
        #[source]
        source: io::Error,
    },
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
}

impl SetupError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Listen { .. } => Some("--metrics names an address of this machine and a port that is free"),
            Self::Cpus { .. } | Self::Signals(_) => None,
        }
    }
}

impl Watch {
    pub(super) fn execute(&self, engines: &[&dyn Engine]) -> Status {
        conclude(self.run(engines))
    }

    async fn run(&self, engines: &[&dyn Engine]) -> Result<Status, PrepareError> {
        let settings =
            settings(StoreAddress::Containerd { address: self.containerd.address.clone(), namespace: String::new() })?;
        let (listener, signals) = match self.set_up().await {
            Ok(set_up) => set_up,
            Err(error) => {
                report(&error, error.hint());
                return Ok(Status::Unexpected);
            }
        };
        let plan = Plan {
            address: self.containerd.address.clone(),
            namespaces: self.namespace.clone(),
            jobs: self.jobs.map_or(settings.compile.slots, |jobs| jobs.get().into()),
            rank_label: self.rank_label.clone(),
            settings,
            options: self.config.options()?,
        };
        let stop = async {
            if let Err(error) = signals.readable().await {
                tracing::error!(%error, "cannot wait for signals any more");
            }
            tracing::info!("told to end");
        };
        watch::run(plan, engines, listener, stop).await?;
        Ok(Status::Done)
    }

    /// Does all steps that can fail before the service begins, and logs the bound address.
    async fn set_up(&self) -> Result<(Option<TcpListener>, AsyncFd<OwnedFd>), SetupError> {
        if let Some(cpus) = self.cpus.map(NonZeroU16::get) {
            keep_to(cpus).map_err(|source| SetupError::Cpus { cpus, source })?;
        }
        let signals = signals().map_err(SetupError::Signals)?;
        let listener = match self.metrics {
            Some(address) => {
                let listen = |source| SetupError::Listen { address, source };
                let listener = TcpListener::bind(address).await.map_err(listen)?;
                tracing::info!(address = %listener.local_addr().map_err(listen)?, "serving metrics over HTTP");
                Some(listener)
            }
            None => None,
        };
        Ok((listener, signals))
    }
}

/// Restricts this process to `cpus` cores: the last ones that it may use. Compile workers inherit that.
fn keep_to(cpus: u16) -> io::Result<()> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let mut wanted = CpuSet::new();
    let all = (0..CpuSet::MAX_CPU).rev().filter(|cpu| allowed.is_set(*cpu));
    all.take(cpus.into()).for_each(|cpu| wanted.set(cpu));
    Ok(rustix::thread::sched_setaffinity(None, &wanted)?)
}

/// Returns a descriptor that becomes readable after SIGTERM or SIGINT; neither signal ends the process any more.
fn signals() -> io::Result<AsyncFd<OwnedFd>> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    let descriptor = OwnedFd::from(SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?);
    // SAFETY: an `OwnedFd` refers to the same open descriptor as long as it lives.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}
