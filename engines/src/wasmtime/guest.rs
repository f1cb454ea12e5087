//! Sets up one guest: arguments, streams, folders, network, limits.

use wasmtime::Store;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};
use wasmtime_wasi_http::WasiHttpCtx;

use super::host::{Either, Host};
use super::limits::Budget;
use super::outgoing::Outgoing;
use super::{one_line, stdio};
use crate::preopens;
use crate::{Guest, Network, RunError, paths};

/// Makes a store for a component.
pub(super) fn store(
    engine: &wasmtime::Engine,
    guest: &Guest,
    counts: bool,
    wasi: &mut WasiCtxBuilder,
    outgoing: &Outgoing,
) -> wasmtime::Result<Store<Host>> {
    let mut store = Store::new(engine, host(guest, wasi, outgoing));
    store.limiter(|host| &mut host.limits);
    fuel(&mut store, guest, counts)?;
    Ok(store)
}

/// Makes the state of a component's host functions.
pub(super) fn host(guest: &Guest, wasi: &mut WasiCtxBuilder, outgoing: &Outgoing) -> Host {
    let mut host = Host {
        wasi: wasi.build(),
        table: ResourceTable::new(),
        limits: Budget::new(guest.memory_limit),
        http: WasiHttpCtx::new(),
        outgoing: outgoing.clone(),
        network: guest.network,
        has_root: paths::has_root(&guest.preopens),
        either: None,
    };
    host.either = Either::of(&mut host, guest);
    host
}

/// Sets the fuel: the guest's limit, or the maximum if its code counts without a limit.
pub(super) fn fuel<T>(store: &mut Store<T>, guest: &Guest, counts: bool) -> wasmtime::Result<()> {
    match guest.fuel {
        Some(fuel) if counts => store.set_fuel(fuel),
        Some(_) => wasmtime::bail!("its code does not count fuel"),
        None if counts => store.set_fuel(u64::MAX),
        None => Ok(()),
    }
}

/// Sets up WASI for one instance, without folders.
pub(super) fn wasi(guest: &Guest) -> WasiCtxBuilder {
    let mut wasi = WasiCtxBuilder::new();
    wasi.args(&guest.args)
        .envs(&guest.env)
        .inherit_stdin()
        .stdout(stdio::Output::new(rustix::stdio::stdout()))
        .stderr(stdio::Output::new(rustix::stdio::stderr()));
    match guest.network {
        Network::Inherit => wasi.inherit_network().allow_tcp(true).allow_udp(true).allow_ip_name_lookup(true),
        Network::None => wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false),
    };
    if let Some(cwd) = guest.cwd.to_str().filter(|cwd| !cwd.is_empty()) {
        wasi.initial_cwd(cwd);
    }
    wasi
}

/// Opens the folders of a guest, and returns their number.
///
/// # Errors
/// [`RunError::Setup`]: a folder cannot be opened.
pub(super) fn open_folders(wasi: &mut WasiCtxBuilder, guest: &Guest) -> Result<usize, RunError> {
    let mut opened = 0;
    for folder in preopens::told_apart(guest) {
        let permissions = if folder.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
        match wasi.preopened_dir(&folder.host, &folder.guest, permissions) {
            Ok(_) => opened += 1,
            Err(error) if folder.required => return Err(folder.refused(&one_line(&error))),
            Err(_) => {}
        }
    }
    Ok(opened)
}
