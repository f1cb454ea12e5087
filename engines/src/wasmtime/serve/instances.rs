//! Instances of a component that serves: each answers one request, or several in sequence.
//!
//! Most of the work of a short answer is making and dropping an instance, and no client has to wait for it. After the answer has been
//! sent, its instance is dropped, and one instance is made for the process's next request.

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
    /// Number of requests that it has answered.
    pub(super) used: u32,
}

/// Makes instances, and keeps those that may answer more requests.
pub(super) struct Instances {
    guest: Guest,
    counts: bool,
    /// The guest's folders, opened once for all instances.
    folders: WasiFilesystemCtx,
    outgoing: Outgoing,
    /// Instances that may answer more requests, at most `most_idle`.
    idle: Mutex<Vec<Instance>>,
    most_idle: usize,
    /// The instance for the next request. The task that makes it holds the lock, so that a request waits for it instead of making another
    /// instance at the same time.
    spare: tokio::sync::Mutex<Option<Instance>>,
}

impl Instances {
    /// Opens the guest's folders, which shows whether there can be instances at all. At most `most_idle` reusable instances are kept.
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
    /// The store cannot be set up.
    pub(super) fn store(&self, engine: &wasmtime::Engine) -> wasmtime::Result<Store<Host>> {
        let mut store = store(engine, &self.guest, self.counts, &mut wasi(&self.guest), &self.outgoing)?;
        let host = store.data_mut();
        *host.filesystem().ctx = self.folders.clone();
        host.either = Either::of(host, &self.guest);
        store.set_epoch_deadline(1);
        // A yield runs the tasks that are ready, and polls for new events.
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(yield_now()))));
        Ok(store)
    }

    /// Takes an existing instance, or makes one.
    ///
    /// # Errors
    /// The guest cannot be instantiated.
    pub(super) async fn take(&self, proxy: &ProxyPre<Host>) -> wasmtime::Result<Instance> {
        if self.guest.http.instance_requests > 1
            && let Some(instance) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
        {
            return Ok(instance);
        }
        match self.spare.lock().await.take() {
            Some(mut instance) => {
                // The instance's time slice begins now.
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

    /// Keeps an instance that may answer more requests; else drops it, and makes one for the next request. The permit is released when
    /// the instance is gone, so that there are never more instances than the pool has room for.
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
        // The connection's task continues until it has sent the answer; then this task continues.
        tokio::spawn(async move {
            drop((instance, permit));
            // Another task is making or taking the instance.
            let Ok(mut spare) = instances.spare.try_lock() else { return };
            if spare.is_none() {
                // If the instance cannot be made, the next request reports the error.
                *spare = timeout(instances.guest.http.timeout, instances.make(&proxy)).await.ok().and_then(Result::ok);
            }
        });
    }
}
