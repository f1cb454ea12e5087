//! A component that answers HTTP requests: the container is a server.
//!
//! Each core has one worker process ([`mod@processes`]) with its own runtime. The container's process is the acceptor: it accepts connections
//! and passes them to the workers in turn. The worker of a connection also answers its requests, each in its own instance. The memory of
//! instances comes from a pool and returns to it.
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

use super::host::Host;
use super::traps;
use crate::end::setup;
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

use self::answer::{RequestLimits, Server};
use self::instances::Instances;
use self::processes::First;

/// Number of connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// Time limit for a client to send the head of a request.
const HEAD: Duration = Duration::from_secs(30);
/// Pause of the acceptor when no descriptor is free for another connection.
const PAUSE: Duration = Duration::from_millis(50);
/// Interval at which a guest that computes yields.
const TICK: Duration = Duration::from_millis(10);
/// Most memory of an instance that is kept for the next one, in bytes. Its written pages are zeroed, or all of it if the kernel does not
/// report them; the rest is returned to the kernel.
const KEPT: u64 = 256 << 10;
/// A page of a linear memory, in bytes.
const PAGE: u64 = 64 << 10;
/// Least memory of an instance, in bytes.
const LEAST: u64 = 1 << 20;
/// Limit for the engine's own memory of an instance, in bytes; the engine uses only as much as it needs.
const INSTANCE: usize = 64 << 20;
/// Maximum number of elements of a table in a pool: it reserves only address space.
const TABLE_ELEMENTS: usize = 1_000_000;

/// The request handler of a component.
pub(super) struct Service {
    /// The export that answers, bound to the component's imports: `wasi:http/incoming-handler` of preview 2, or `wasi:http/handler` of
    /// preview 3.
    handler: ProxyPre<Host>,
    /// Maximum number of instances in the container.
    capacity: u32,
}

impl Service {
    /// Finds the handler; `None` if the component has none.
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

    /// Serves until the guest is told to stop, and then until the requests in progress are answered.
    ///
    /// # Errors
    /// [`RunError::Setup`]: the address cannot be listened on, or a process or thread cannot be made.
    pub(super) fn run(&self, guest: &Guest, counts: bool) -> Result<u8, RunError> {
        traps::restore().map_err(|error| setup(format!("cannot restore signal handlers: {error}")))?;
        let address = guest.http.address;
        let listener = connections::listen(address);
        let listener = listener.map_err(|error| setup(format!("cannot listen on {address}: {error}")))?;
        let http = Http { concurrency: guest.http.concurrency.clamp(1, self.capacity), ..guest.http.clone() };
        let processes = processes(http.concurrency);
        let limits =
            RequestLimits::new(http.concurrency).map_err(|error| setup(format!("cannot count requests: {error}")))?;
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

/// Returns the number of workers for so many concurrent requests.
fn processes(concurrency: u32) -> u32 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores).unwrap_or(u32::MAX).min(concurrency)
}

/// Returns the exit code of a worker, and prints the error that kept it from serving.
fn code(served: Result<(), RunError>) -> u8 {
    served.map_or_else(
        |error| {
            tell(&format!("error: {error}"));
            error.exit_code()
        },
        |()| 0,
    )
}

/// Writes a line to the container's standard error in one write: other processes write there too.
fn tell(line: &str) {
    // Without standard error there is no place to report to.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Returns the configuration of a pool for the instances of this component; `None` if the component's needs are not known.
pub(super) fn pool(component: &Component, tuning: &Tuning) -> Option<PoolingAllocationConfig> {
    let wants = component.resources_required()?;
    // Instances that wait for their next request, or continue after their answer, count too.
    let capacity = capacity(component, tuning);
    let instances = capacity.saturating_mul(2);
    // Each worker has such a pool.
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
        // When a module is dropped, the pool iterates up to these numbers: they are as small as possible.
        .max_memories_per_module(wants.num_memories)
        .max_tables_per_module(wants.num_tables)
        .table_elements(TABLE_ELEMENTS)
        .linear_memory_keep_resident(kept)
        .table_keep_resident(kept.min(64 << 10))
        .async_stack_keep_resident(kept.min(64 << 10))
        // Only written pages are zeroed, if the kernel reports them. It is asked about the pages of the process that loads the program,
        // or of a worker that was forked from the container's process.
        .pagemap_scan(Enabled::Auto);
    Some(pool)
}

/// Returns the maximum number of concurrent instances. Instances may use at most half of the memory limit, at their initial size.
fn capacity(component: &Component, tuning: &Tuning) -> u32 {
    let wish = tuning.instances.unwrap_or(Http::default().concurrency).max(1);
    let (Some(memory), Some(wants)) = (tuning.memory, component.resources_required()) else { return wish };
    let pages = wants.max_initial_memory_size.unwrap_or(0).saturating_mul(wants.num_memories.into());
    let room = memory / 2 / pages.saturating_mul(PAGE).max(LEAST);
    u32::try_from(room).unwrap_or(u32::MAX).clamp(1, wish)
}
