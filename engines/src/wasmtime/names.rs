//! `wasi:sockets/ip-name-lookup` of preview 2 and 3, in place of wasmtime's own. wasmtime's asks the C library, which would load code of
//! the image ([`prewasi_names`]). A look-up runs on the guest's runtime, and ends when its result is no longer wanted.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::vec;

use prewasi_names::LookupError;
use wasmtime::StoreContextMut;
use wasmtime::component::{Accessor, HasData, Linker, Resource, ResourceType};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress};
use wasmtime_wasi::p2::{DynPollable, Network as NetworkHandle, Pollable, subscribe};
use wasmtime_wasi::p3::bindings::sockets::{ip_name_lookup as p3, types};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

use super::form::Form;
use super::host::Host;
use crate::Network;

/// The interface's name in wasmtime's linker (a test compares it).
const INTERFACE: &str = "wasi:sockets/ip-name-lookup@0.2.12";
const STREAM: &str = "resolve-address-stream";

type Looked = Result<Vec<IpAddr>, LookupError>;

/// Looks a name up, if the guest has a network.
async fn look_up(network: Network, name: String) -> Option<Looked> {
    match network {
        Network::Inherit => Some(prewasi_names::lookup(&name).await),
        Network::None => None,
    }
}

/// Replaces both of wasmtime's interfaces.
pub(super) fn replace(linker: &mut Linker<Host>, form: Form) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut interface = linker.instance(INTERFACE)?;
    interface.resource(STREAM, ResourceType::host::<Addresses>(), |mut store, handle| {
        store.data_mut().table.delete(Resource::<Addresses>::new_own(handle))?;
        Ok(())
    })?;
    interface.func_wrap("resolve-addresses", |mut store: StoreContextMut<'_, Host>, (network, name)| {
        Ok((resolve_addresses(store.data_mut(), &network, name)?,))
    })?;
    interface.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: StoreContextMut<'_, Host>, (stream,): (Resource<Addresses>,)| {
            Ok((store.data_mut().table.get_mut(&stream)?.next(),))
        },
    )?;
    interface.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: StoreContextMut<'_, Host>,
         (stream,): (Resource<Addresses>,)|
         -> wasmtime::Result<(Resource<DynPollable>,)> {
            Ok((subscribe(&mut store.data_mut().table, stream)?,))
        },
    )?;
    if form == Form::Async {
        p3::add_to_linker::<_, Lookup>(linker, |host| host)?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

/// Starts a look-up. A result that is known at once is returned at once.
fn resolve_addresses(
    host: &mut Host,
    network: &Resource<NetworkHandle>,
    name: String,
) -> wasmtime::Result<Result<Resource<Addresses>, ErrorCode>> {
    // The handle is the permission for this call.
    host.table.get(network)?;
    let mut addresses = Addresses::begin(look_up(host.network, name));
    match &mut addresses {
        Addresses::Known(Err(code)) => Ok(Err(*code)),
        _ => Ok(Ok(host.table.push(addresses)?)),
    }
}

/// The result of a look-up that a guest waits for.
enum Addresses {
    Awaited(AbortOnDropJoinHandle<Option<Looked>>),
    Known(Result<vec::IntoIter<IpAddr>, ErrorCode>),
}

impl Addresses {
    fn begin(looking: impl Future<Output = Option<Looked>> + Send + 'static) -> Self {
        let mut looking = Box::pin(looking);
        match looking.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(looked) => Self::known(looked),
            Poll::Pending => Self::Awaited(spawn(looking)),
        }
    }

    fn known(looked: Option<Looked>) -> Self {
        Self::Known(match looked {
            Some(Ok(addresses)) => Ok(addresses.into_iter()),
            Some(Err(error)) => Err(code(&error)),
            None => Err(ErrorCode::PermanentResolverFailure),
        })
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<&mut Result<vec::IntoIter<IpAddr>, ErrorCode>> {
        if let Self::Awaited(looking) = self {
            match Pin::new(looking).poll(context) {
                Poll::Ready(looked) => *self = Self::known(looked),
                Poll::Pending => return Poll::Pending,
            }
        }
        match self {
            Self::Known(known) => Poll::Ready(known),
            Self::Awaited(_) => Poll::Pending,
        }
    }

    fn next(&mut self) -> Result<Option<IpAddress>, ErrorCode> {
        match self.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(addresses)) => Ok(addresses.next().map(IpAddress::from)),
            Poll::Ready(Err(code)) => Err(*code),
            Poll::Pending => Err(ErrorCode::WouldBlock),
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Addresses {
    async fn ready(&mut self) {
        poll_fn(|context| self.poll(context).map(drop)).await;
    }
}

fn code(error: &LookupError) -> ErrorCode {
    match error {
        LookupError::Invalid { .. } => ErrorCode::InvalidArgument,
        LookupError::Unknown { .. } => ErrorCode::NameUnresolvable,
        LookupError::Unanswered { .. } => ErrorCode::TemporaryResolverFailure,
        LookupError::Refused { .. } | LookupError::File { .. } => ErrorCode::PermanentResolverFailure,
    }
}

/// The receiver of preview 3's calls.
struct Lookup;

impl HasData for Lookup {
    type Data<'a> = &'a mut Host;
}

impl p3::Host for Host {}

impl<T> p3::HostWithStore<T> for Lookup {
    async fn resolve_addresses(
        store: &Accessor<T, Self>,
        name: String,
    ) -> wasmtime::Result<Result<Vec<types::IpAddress>, p3::ErrorCode>> {
        let network = store.with(|mut host| host.get().network);
        Ok(match look_up(network, name).await {
            Some(Ok(addresses)) => Ok(addresses.into_iter().map(types::IpAddress::from).collect()),
            Some(Err(error)) => Err(async_code(&error)),
            None => Err(p3::ErrorCode::PermanentResolverFailure),
        })
    }
}

fn async_code(error: &LookupError) -> p3::ErrorCode {
    match error {
        LookupError::Invalid { .. } => p3::ErrorCode::InvalidArgument,
        LookupError::Unknown { .. } => p3::ErrorCode::NameUnresolvable,
        LookupError::Unanswered { .. } => p3::ErrorCode::TemporaryResolverFailure,
        LookupError::Refused { .. } | LookupError::File { .. } => p3::ErrorCode::PermanentResolverFailure,
    }
}

#[cfg(test)]
mod tests {
    use wasmtime_wasi::p2;

    use super::super::options::Options;
    use super::*;

    /// The functions defined here are exactly those of wasmtime's own interface, under the same names.
    #[test]
    fn interface_is_that_of_wasmtime() {
        let engine = Options::host().engine(false, Form::Component).unwrap();
        for name in [
            "resolve-addresses",
            "[method]resolve-address-stream.resolve-next-address",
            "[method]resolve-address-stream.subscribe",
            STREAM,
        ] {
            let mut linker = Linker::<Host>::new(&engine);
            p2::add_to_linker_async(&mut linker).unwrap();
            let defined = linker.instance(INTERFACE).unwrap().func_wrap(name, |_, ()| Ok(()));
            assert!(defined.is_err(), "wasmtime has no {name} in {INTERFACE}");
        }
    }
}
