//! Components of WASI preview 3: an instance may answer several requests at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::{Request, Response};
use tokio::time::Sleep;
use wasmtime::component::GuestTaskId;
use wasmtime::{Engine, Store, StoreContextMut, Trap};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::handler::{
    self, ExpirationError, HandlerState, ProxyHandler, ProxyPre, ShouldAccept, TrapOrPanicError, WorkerExpiration,
    WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use super::super::host::Host;
use super::instances::Instances;
use super::unanswered::{Unanswered, reason};
use crate::Http;

/// Maximum number of concurrent requests of an instance.
const AT_ONCE: usize = 16;
/// Time for which an instance without a request is kept.
const IDLE: Duration = Duration::from_secs(1);
/// An instance that still computes is ended this long after the time limit of its last request: other requests may arrive meanwhile.
const LATE: Duration = Duration::from_millis(100);

/// Passes requests to instances.
pub(super) struct Concurrent(ProxyHandler<State>);

struct State {
    proxy: ProxyPre<Host>,
    engine: Engine,
    instances: Arc<Instances>,
    requests: usize,
    timeout: Duration,
}

impl Concurrent {
    pub(super) fn new(proxy: ProxyPre<Host>, engine: &Engine, instances: Arc<Instances>, http: &Http) -> Self {
        let requests = http.instance_requests as usize;
        Self(ProxyHandler::new(State { proxy, engine: engine.clone(), instances, requests, timeout: http.timeout }))
    }

    /// Passes a request to an instance, and waits until it begins to answer.
    ///
    /// # Errors
    /// The reason why there is no answer.
    pub(super) async fn ask(&self, request: Request<WasiBody>) -> Result<Response<WasiBody>, Unanswered> {
        self.0.handle((), request).await.map_err(|error| {
            if error.is::<ExpirationError>() {
                Unanswered::Late
            } else if error.is::<TrapOrPanicError>() {
                Unanswered::Failed(wasmtime::Error::msg("its instance has failed"))
            } else {
                Unanswered::Failed(error)
            }
        })
    }
}

impl HandlerState for State {
    type StoreData = Host;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<handler::Instance<Host, Expiration, Worker>> {
        let mut store = self.instances.store(&self.engine)?;
        let proxy = self.proxy.instantiate_async(&mut store).await?;
        let sleep = tokio::time::sleep(self.timeout);
        Ok(handler::Instance {
            store,
            proxy,
            view: Host::http,
            expiration: Expiration { timeout: self.timeout, sleep: Box::pin(sleep) },
            state: Worker { requests: self.requests, timeout: self.timeout },
        })
    }
}

/// Time limits of an instance: without a request, with requests, and after its last answer.
struct Expiration {
    timeout: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl WorkerExpiration for Expiration {
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>, status: WorkerStatus, start: Instant) -> Poll<()> {
        let patience = match status {
            WorkerStatus::Idle => IDLE,
            // At that time no client waits for the instance any more.
            WorkerStatus::Requests => self.timeout + LATE,
            WorkerStatus::PostReturn => self.timeout,
        };
        let deadline = tokio::time::Instant::from_std(start + patience);
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(context)
    }
}

/// Limits of one instance.
struct Worker {
    requests: usize,
    timeout: Duration,
}

impl WorkerState for Worker {
    type StoreData = Host;
    type RequestData = ();

    fn should_accept_request(&self, now: usize, so_far: usize) -> ShouldAccept {
        if so_far >= self.requests {
            ShouldAccept::Never
        } else if now >= AT_ONCE {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, Host>,
        (): (),
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        Box::pin(tokio::time::sleep(self.timeout))
    }

    /// Logs why an instance has ended early: the request that caused it is not known.
    fn drop(&self, store: Store<Host>, result: wasmtime::Result<()>) {
        // An instance that exceeds its time limit has no error of its own.
        if let Err(error) = result.as_ref()
            && (error.is::<Trap>() || error.is::<I32Exit>())
        {
            super::tell(&format!("error: an instance has failed: {}", reason(error)));
        }
        drop(store);
    }
}
