//! A component that answers HTTP requests: the container is a server.
//!
//! One thread per core, each with a runtime of its own; the first of them accepts, and hands connections out in turn. A request
//! is answered where its connection is read, by an instance of its own: nothing is handed from thread to thread. The memory of
//! instances comes from a pool and goes back to it.
//!
//! A guest that computes cannot keep its thread: code of components can be interrupted, and yields every [`TICK`].

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use wasmtime::component::{self, Component};
use wasmtime::{Enabled, PoolingAllocationConfig};
use wasmtime_wasi_http::handler::ProxyPre;
use wasmtime_wasi_http::{p2, p3};

use super::link::Host;
use super::run::setup;
use super::traps;
use crate::{Guest, Http, Outcome, RunError, Tuning};

mod answer;
mod body;
mod instances;
mod several;
mod ticker;

use self::answer::Server;
use self::instances::Spare;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// How long a client may take for the head of a request.
const HEAD: Duration = Duration::from_secs(30);
/// How long to leave connections alone when there is no descriptor for another one.
const PAUSE: Duration = Duration::from_millis(50);
/// How often a guest that computes lets others have their turn.
const TICK: Duration = Duration::from_millis(10);
/// The most that is kept of an instance's memory for the next one, bytes. So much is cleared by hand for each request; the rest is
/// given back.
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
    handler: Handler,
    /// How many instances the container has room for.
    capacity: u32,
}

/// The export that answers, bound to the component's imports.
#[derive(Clone)]
enum Handler {
    /// `wasi:http/incoming-handler` of preview 2.
    P2(p2::bindings::ProxyPre<Host>),
    /// `wasi:http/handler` of preview 3.
    P3(p3::bindings::ServicePre<Host>),
}

impl Handler {
    fn engine(&self) -> &wasmtime::Engine {
        match self {
            Self::P2(proxy) => proxy.engine(),
            Self::P3(service) => service.engine(),
        }
    }

    fn proxy(&self) -> ProxyPre<Host> {
        match self {
            Self::P2(proxy) => ProxyPre::P2(proxy.clone()),
            Self::P3(service) => ProxyPre::P3(service.clone()),
        }
    }
}

impl Service {
    /// Finds it.
    pub(super) fn of(bound: &component::InstancePre<Host>, tuning: &Tuning) -> Option<Self> {
        let handler = match p2::bindings::ProxyPre::new(bound.clone()) {
            Ok(proxy) => Handler::P2(proxy),
            Err(_) => Handler::P3(p3::bindings::ServicePre::new(bound.clone()).ok()?),
        };
        Some(Self { handler, capacity: capacity(bound.component(), tuning) })
    }

    /// Serves until the guest is told to stop, and then until what has begun is answered.
    ///
    /// # Errors
    /// [`RunError::Setup`]: the address cannot be listened on, or there is no thread.
    pub(super) fn run(&self, guest: &Guest, counts: bool) -> Result<Outcome, RunError> {
        traps::restore().map_err(|error| setup(format!("signal handlers: {error}")))?;
        let runtime = make_runtime()?;
        let listener = listen(&runtime, &guest.http);
        let address = guest.http.address;
        let listener = listener.map_err(|error| setup(format!("cannot listen on {address}: {error}")))?;
        let (stopping, stop) = watch::channel(false);
        let server = Arc::new(Server::new(self, guest, counts, stop)?);
        let thread = |name: &str| thread::Builder::new().name(name.to_owned());
        let failed = |error: io::Error| setup(format!("cannot start a thread: {error}"));
        if let Some(end) = guest.stop.clone() {
            let wait = move || {
                wait_for_end(&end);
                // All servers may be gone.
                let _ = stopping.send(true);
            };
            thread("stop").spawn(wait).map_err(failed)?;
        }
        eprintln!("listening on http://{address}");
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let cores = cores.min(server.concurrency() as usize);
        let (mut others, mut queues) = (Vec::new(), Vec::new());
        for _ in 1..cores {
            let (queue, connections) = mpsc::unbounded_channel();
            let (server, runtime) = (server.clone(), make_runtime()?);
            let serve = move || serve(runtime, take(&server, connections));
            others.push(thread("guest").spawn(serve).map_err(failed)?);
            queues.push(queue);
        }
        serve(runtime, accept(&server, listener, queues));
        for other in others {
            // A thread that panicked has said so.
            let _ = other.join();
        }
        Ok(Outcome::Exit(0))
    }
}

/// Says what a pool for the instances of this component is made of; `None` if that cannot be known.
pub(super) fn pool(component: &Component, tuning: &Tuning) -> Option<PoolingAllocationConfig> {
    let wants = component.resources_required()?;
    // Instances that wait for their next request, or finish after their answer, are instances too.
    let instances = capacity(component, tuning).saturating_mul(2);
    let kept = tuning.memory.map_or(KEPT, |memory| (memory / 4 / u64::from(instances)).min(KEPT));
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
        // It would ask for the pages of the process that loads the program, which is not the one that runs it.
        .pagemap_scan(Enabled::No);
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

fn listen(runtime: &Runtime, http: &Http) -> io::Result<TcpListener> {
    let _entered = runtime.enter();
    let socket = if http.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(http.address)?;
    socket.listen(BACKLOG)
}

/// Waits until nobody holds the other end of a pipe any more.
fn wait_for_end(end: &std::os::fd::OwnedFd) {
    loop {
        match poll(&mut [PollFd::new(&end.as_fd(), PollFlags::empty())], None) {
            Err(rustix::io::Errno::INTR) => {}
            _ => return,
        }
    }
}

/// Makes the runtime of one thread.
fn make_runtime() -> Result<Runtime, RunError> {
    // A guest that computes has its turn again and again; what has come for others is looked for after each.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(1).build();
    runtime.map_err(|error| setup(format!("asynchronous runtime: {error}")))
}

/// Serves connections on this thread, until the guest is to stop and all of them have ended.
fn serve(runtime: Runtime, connections: impl Future<Output = ()>) {
    runtime.block_on(connections);
    // A name lookup that still runs is not waited for.
    runtime.shutdown_background();
}

/// Accepts connections, and keeps one after it has given one to each of the other threads.
async fn accept(server: &Arc<Server>, listener: TcpListener, queues: Vec<mpsc::UnboundedSender<std::net::TcpStream>>) {
    let mut stop = server.stop();
    let spare = Spare::default();
    let mut connections = JoinSet::new();
    let mut turns = (0..=queues.len()).cycle();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            // Those that have ended.
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match turns.next().and_then(|turn| queues.get(turn)) {
                    // A client that is gone already is nobody's loss.
                    Some(queue) => drop(stream.into_std().map(|stream| queue.send(stream))),
                    None => drop(connections.spawn(connection(server.clone(), spare.clone(), stream))),
                },
                // Out of descriptors: those who are being served will give some back.
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
        }
    }
    drop((listener, queues));
    while connections.join_next().await.is_some() {}
    server.finish().await;
}

/// Takes connections that another thread has accepted.
async fn take(server: &Arc<Server>, mut given: mpsc::UnboundedReceiver<std::net::TcpStream>) {
    let spare = Spare::default();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Those that have ended.
            Some(_) = connections.join_next() => {}
            stream = given.recv() => match stream.map(TcpStream::from_std) {
                Some(Ok(stream)) => drop(connections.spawn(connection(server.clone(), spare.clone(), stream))),
                Some(Err(_)) => {}
                None => break,
            },
        }
    }
    while connections.join_next().await.is_some() {}
    server.finish().await;
}

/// Serves one connection: HTTP/1.1, or HTTP/2 if the client begins with it.
async fn connection(server: Arc<Server>, spare: Spare, stream: TcpStream) {
    // Small pieces of a response are not held back.
    let _ = stream.set_nodelay(true);
    let mut stop = server.stop();
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).pipeline_flush(true);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(server.concurrency());
    let answer = service_fn(|request| server.clone().answer(spare.clone(), request));
    let connection = builder.serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    // Clients that go, or that speak no HTTP, are no errors of ours.
    let _ = tokio::select! {
        result = &mut connection => result,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

/// Waits until the guest is to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // Nobody is left who could say so.
        std::future::pending::<()>().await;
    }
}
