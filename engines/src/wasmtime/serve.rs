//! A component that answers HTTP requests: the container is a server.
//!
//! One process per core ([`processes`]), each with a runtime of its own; the container's process accepts connections and hands
//! them out in turn. A request is answered where its connection is read, by an instance of its own. The memory of instances comes from a
//! pool and goes back to it.
//!
//! A guest that computes cannot keep its thread: code of components can be interrupted, and yields every [`TICK`].

use std::io::Write as _;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use wasmtime::component::{self, Component};
use wasmtime::{Enabled, PoolingAllocationConfig};
use wasmtime_wasi_http::handler::ProxyPre;
use wasmtime_wasi_http::{p2, p3};

use super::failure::setup;
use super::host::Host;
use super::traps;
use crate::{Guest, Http, RunError, Tuning};

mod answer;
mod body;
mod concurrent;
mod connections;
mod instances;
mod processes;
mod semaphore;
mod ticker;
mod unanswered;
mod work;

use self::answer::{Limits, Server};
use self::instances::Instances;
use self::processes::First;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long a client may take for the head of a request.
const HEAD: Duration = Duration::from_secs(30);
/// How long to leave connections alone when there is no descriptor for another one.
const PAUSE: Duration = Duration::from_millis(50);
/// How often a guest that computes lets others have their turn.
const TICK: Duration = Duration::from_millis(10);
/// The most that is kept of an instance's memory for the next one, bytes. What of it was written to is cleared by hand, or all of it
/// where the system does not tell; the rest is given back.
const KEPT: u64 = 256 << 10;
/// A page of a linear memory, bytes.
const PAGE: u64 = 64 << 10;
/// What an instance takes at the least, bytes.
const LEAST: u64 = 1 << 20;
/// What the engine itself may need for an instance, bytes; it takes what it needs, and no more.
const INSTANCE: usize = 64 << 20;
/// Elements that a table may have in a pool: address space, nothing more.
const TABLE_ELEMENTS: usize = 1_000_000;

/// What of a component answers requests.
pub(super) struct Service {
    /// The export that answers, bound to the component's imports: `wasi:http/incoming-handler` of preview 2, or `wasi:http/handler`
    /// of preview 3.
    handler: ProxyPre<Host>,
    /// How many instances the container has room for.
    capacity: u32,
}

impl Service {
    /// Finds it.
    pub(super) fn of(bound: &component::InstancePre<Host>, tuning: &Tuning) -> Option<Self> {
        let handler = match p2::bindings::ProxyPre::new(bound.clone()) {
            Ok(proxy) => ProxyPre::P2(proxy),
            Err(_) => ProxyPre::P3(p3::bindings::ServicePre::new(bound.clone()).ok()?),
        };
        Some(Self { handler, capacity: capacity(bound.component(), tuning) })
    }

    fn engine(&self) -> &wasmtime::Engine {
        match &self.handler {
            ProxyPre::P2(proxy) => proxy.engine(),
            ProxyPre::P3(service) => service.engine(),
        }
    }

    /// Serves until the guest is told to stop, and then until what has begun is answered.
    ///
    /// # Errors
    /// [`RunError::Setup`]: the address cannot be listened on, or there is no process or thread.
    pub(super) fn run(&self, guest: &Guest, counts: bool) -> Result<u8, RunError> {
        traps::restore().map_err(|error| setup(format!("signal handlers: {error}")))?;
        let address = guest.http.address;
        let listener = connections::listen(address);
        let listener = listener.map_err(|error| setup(format!("cannot listen on {address}: {error}")))?;
        let http = Http { concurrency: guest.http.concurrency.clamp(1, self.capacity), ..guest.http.clone() };
        let processes = processes(http.concurrency);
        let limits = Limits::new(http.concurrency).map_err(|error| setup(format!("cannot count requests: {error}")))?;
        let instances = Arc::new(Instances::new(guest, counts, (http.concurrency / processes) as usize)?);
        let server = || Server::new(self, &http, instances.clone(), limits.clone());
        let mut first = First::new(listener);
        for _ in 0..processes {
            let forked = first.fork(|given| code(server().and_then(|server| connections::take(server, given))));
            first = forked.map_err(|error| setup(format!("cannot start a process: {error}")))?;
        }
        tell(&format!("listening on http://{address}"));
        connections::accept(first, guest.stop.clone())
    }
}

/// Returns how many processes serve so many requests at the same time.
fn processes(concurrency: u32) -> u32 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores).unwrap_or(u32::MAX).min(concurrency)
}

/// Returns the exit code of a process that serves; what kept it from serving is told here.
fn code(served: Result<(), RunError>) -> u8 {
    served.map_or_else(
        |error| {
            tell(&format!("error: {error}"));
            error.exit_code()
        },
        |()| 0,
    )
}

/// Writes a line to the container's standard error, at once: other processes write there, too.
fn tell(line: &str) {
    // If it is gone there is nobody to tell.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Says what a pool for the instances of this component is made of; `None` if that cannot be known.
pub(super) fn pool(component: &Component, tuning: &Tuning) -> Option<PoolingAllocationConfig> {
    let wants = component.resources_required()?;
    // Instances that wait for their next request, or finish after their answer, are instances too.
    let capacity = capacity(component, tuning);
    let instances = capacity.saturating_mul(2);
    // Each process has such a pool.
    let all = u64::from(instances) * u64::from(processes(capacity));
    let kept = tuning.memory.map_or(KEPT, |memory| (memory / 4 / all).min(KEPT));
    let kept = usize::try_from(kept).unwrap_or(0);
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(instances)
        .total_core_instances(u32::MAX)
        .total_memories(instances.saturating_mul(wants.num_memories))
        .total_tables(instances.saturating_mul(wants.num_tables))
        .total_stacks(instances)
        .total_gc_heaps(instances)
        .max_core_instances_per_component(u32::MAX)
        .max_component_instance_size(INSTANCE)
        .max_core_instance_size(INSTANCE)
        // The pool counts up to these when a module is dropped: no more than there can be.
        .max_memories_per_module(wants.num_memories)
        .max_tables_per_module(wants.num_tables)
        .table_elements(TABLE_ELEMENTS)
        .linear_memory_keep_resident(kept)
        .table_keep_resident(kept.min(64 << 10))
        .async_stack_keep_resident(kept.min(64 << 10))
        // Only what was written to is cleared, where the system tells. It is asked about the pages of the process that loads the
        // program, or of one that has been forked from the container's since, as those that serve are.
        .pagemap_scan(Enabled::Auto);
    Some(pool)
}

/// Returns how many instances there may be at the same time: what is wished for, or what half of the container's memory has
/// room for, at the size that instances begin with.
fn capacity(component: &Component, tuning: &Tuning) -> u32 {
    let wish = tuning.instances.unwrap_or(Http::default().concurrency).max(1);
    let (Some(memory), Some(wants)) = (tuning.memory, component.resources_required()) else { return wish };
    let pages = wants.max_initial_memory_size.unwrap_or(0).saturating_mul(wants.num_memories.into());
    let room = memory / 2 / pages.saturating_mul(PAGE).max(LEAST);
    u32::try_from(room).unwrap_or(u32::MAX).clamp(1, wish)
}
