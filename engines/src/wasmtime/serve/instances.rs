//! Instances of a component that serves: one for each request, or for several, one after the other.
//!
//! Making an instance and unmaking it is most of the work that a short answer takes, and nobody has to wait for it: what a request
//! leaves behind is cleared after its answer has been sent, and one instance is then made for the process's next request.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::yield_now;
use tokio::time::timeout;
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::filesystem::{WasiFilesystemCtx, WasiFilesystemView as _};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};

use super::super::guest::{host, open_folders, store, wasi};
use super::super::host::{Either, Host};
use super::super::outgoing::Outgoing;
use super::semaphore::Permit;
use crate::{Guest, RunError};

/// An instance and its store.
pub(super) struct Instance {
    pub(super) store: Store<Host>,
    pub(super) proxy: Proxy,
    /// How many requests it has answered.
    pub(super) used: u32,
}

/// Makes instances, and keeps those that may answer more.
pub(super) struct Instances {
    guest: Guest,
    counts: bool,
    /// The guest's folders, opened once for all instances.
    folders: WasiFilesystemCtx,
    outgoing: Outgoing,
    /// Those that may answer more, at most so many.
    idle: Mutex<Vec<Instance>>,
    most_idle: usize,
    /// The instance for the next request. Whoever makes it holds the lock, so that a request waits for an instance that is being
    /// made instead of making another beside it.
    spare: tokio::sync::Mutex<Option<Instance>>,
}

impl Instances {
    /// Checks that there can be instances at all. Of those that may answer more, at most so many are kept.
    ///
    /// # Errors
    /// [`RunError::Setup`]: a folder cannot be opened.
    pub(super) fn new(guest: &Guest, counts: bool, most_idle: usize) -> Result<Self, RunError> {
        let outgoing = Outgoing::new(guest);
        let mut wasi = wasi(guest);
        open_folders(&mut wasi, guest)?;
        let folders = host(guest, &mut wasi, &outgoing).filesystem().ctx.clone();
        Ok(Self {
            guest: guest.clone(),
            counts,
            folders,
            outgoing,
            idle: Mutex::default(),
            most_idle,
            spare: tokio::sync::Mutex::default(),
        })
    }

    /// Makes a store for an instance.
    ///
    /// # Errors
    /// What cannot be set up.
    pub(super) fn store(&self, engine: &wasmtime::Engine) -> wasmtime::Result<Store<Host>> {
        let mut store = store(engine, &self.guest, self.counts, &mut wasi(&self.guest), &self.outgoing)?;
        let host = store.data_mut();
        *host.filesystem().ctx = self.folders.clone();
        host.either = Either::of(host, &self.guest);
        store.set_epoch_deadline(1);
        // Those who are ready have their turn first, and what has come for others meanwhile is looked for.
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(yield_now()))));
        Ok(store)
    }

    /// Takes an instance that is there, or makes one.
    ///
    /// # Errors
    /// A guest that cannot be instantiated.
    pub(super) async fn take(&self, proxy: &ProxyPre<Host>) -> wasmtime::Result<Instance> {
        if self.guest.http.instance_requests > 1
            && let Some(instance) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
        {
            return Ok(instance);
        }
        match self.spare.lock().await.take() {
            Some(mut instance) => {
                // Its time begins now.
                instance.store.set_epoch_deadline(1);
                Ok(instance)
            }
            None => self.make(proxy).await,
        }
    }

    async fn make(&self, proxy: &ProxyPre<Host>) -> wasmtime::Result<Instance> {
        let mut store = self.store(proxy.engine())?;
        let proxy = proxy.instantiate_async(&mut store).await?;
        Ok(Instance { store, proxy, used: 0 })
    }

    /// Keeps an instance that may answer more requests; else unmakes it, and makes one for the next request. The permit is given
    /// back when the instance is gone, so that there are no more of them than the pool has room for.
    pub(super) fn give_back(
        self: &Arc<Self>,
        mut instance: Instance,
        permit: Arc<Permit>,
        proxy: &Arc<ProxyPre<Host>>,
    ) {
        instance.used += 1;
        if instance.used < self.guest.http.instance_requests {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < self.most_idle {
                return idle.push(instance);
            }
        }
        let (instances, proxy) = (self.clone(), proxy.clone());
        // The connection's task goes on until it has sent the answer; then this one goes on.
        tokio::spawn(async move {
            drop((instance, permit));
            // Somebody is making one already, or takes it just now.
            let Ok(mut spare) = instances.spare.try_lock() else { return };
            if spare.is_none() {
                // What keeps an instance from being made is told to the request that wants one.
                *spare = timeout(instances.guest.http.timeout, instances.make(&proxy)).await.ok().and_then(Result::ok);
            }
        });
    }
}
