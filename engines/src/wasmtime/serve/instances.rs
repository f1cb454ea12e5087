//! Instances of a component that serves: one for each request, or for several, one after the other.

use std::sync::{Mutex, PoisonError};

use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};

use super::super::link::Host;
use super::super::outgoing::Outgoing;
use super::super::run::{folders, store, wasi};
use crate::preopens::Folder;
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
    folders: Vec<Folder>,
    outgoing: Outgoing,
    idle: Mutex<Vec<Instance>>,
}

impl Instances {
    /// Checks that there can be instances at all.
    ///
    /// # Errors
    /// [`RunError::Setup`]: a folder cannot be opened.
    pub(super) fn new(guest: &Guest, counts: bool) -> Result<Self, RunError> {
        let folders = folders(guest);
        wasi(guest, &folders)?;
        Ok(Self { guest: guest.clone(), counts, folders, outgoing: Outgoing::new(guest), idle: Mutex::default() })
    }

    /// Makes a store for an instance.
    ///
    /// # Errors
    /// What cannot be set up.
    pub(super) fn store(&self, engine: &wasmtime::Engine) -> wasmtime::Result<Store<Host>> {
        let mut wasi = wasi(&self.guest, &self.folders).map_err(wasmtime::Error::new)?;
        let mut store = store(engine, &self.guest, self.counts, &mut wasi, &self.outgoing)?;
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
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
        let mut store = self.store(proxy.engine())?;
        let proxy = proxy.instantiate_async(&mut store).await?;
        Ok(Instance { store, proxy, used: 0 })
    }

    /// Keeps an instance that may answer more requests.
    pub(super) fn give_back(&self, mut instance: Instance) {
        instance.used += 1;
        if instance.used < self.guest.http.instance_requests {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
        }
    }
}
