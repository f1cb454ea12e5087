//! The connection to a containerd: metadata, time limits and retries of its calls, in one place.

use std::path::Path;
use std::time::{Duration, SystemTime};

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{CreateRequest, DeleteRequest};
use jiff::Timestamp;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::retry::{is_unavailable, pauses};
use crate::{Lease, StoreError, labels};

/// Time limit for an ordinary answer.
pub(super) const ANSWER: Duration = Duration::from_secs(30);
/// Time limit for containerd to flush a blob to disk or to collect garbage.
pub(super) const COLLECT: Duration = Duration::from_secs(120);
/// The longest accepted message, in bytes: containerd's own limit for messages that it sends.
const LONGEST_MESSAGE: usize = 16 << 20;

/// A connection, and the namespace of its calls.
#[derive(Clone)]
pub(super) struct Link {
    channel: Channel,
    namespace: AsciiMetadataValue,
    description: String,
}

impl Link {
    pub(super) async fn connect(address: &Path, namespace: &str) -> Result<Self, StoreError> {
        let description = format!("containerd at {}, namespace {namespace}", address.display());
        let connect = |source| StoreError::Connect { store: description.clone(), source };
        let metadata = namespace.parse().map_err(|error| connect(Box::new(error)))?;
        let channel = tokio::time::timeout(ANSWER, containerd_client::connect(address))
            .await
            .map_err(|late| connect(Box::new(late)))?
            .map_err(|error| connect(Box::new(error)))?;
        Ok(Self { channel, namespace: metadata, description })
    }

    pub(super) fn describe(&self) -> &str {
        &self.description
    }

    pub(super) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(LONGEST_MESSAGE)
    }

    pub(super) fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone()).max_decoding_message_size(LONGEST_MESSAGE)
    }

    pub(super) fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.channel.clone())
    }

    pub(super) fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(LONGEST_MESSAGE)
    }

    pub(super) fn events(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone())
    }

    pub(super) fn introspection(&self) -> IntrospectionClient<Channel> {
        IntrospectionClient::new(self.channel.clone())
    }

    pub(super) fn namespaces(&self) -> NamespacesClient<Channel> {
        NamespacesClient::new(self.channel.clone())
    }

    pub(super) fn version(&self) -> VersionClient<Channel> {
        VersionClient::new(self.channel.clone())
    }

    /// Wraps a message with the namespace and, if there is one, the lease that shall hold the created objects.
    pub(super) fn request<M>(&self, message: M, lease: Option<&Lease>) -> Request<M> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        if let Some(Ok(id)) = lease.map(|lease| lease.id().parse()) {
            request.metadata_mut().insert("containerd-lease", id);
        }
        request
    }

    /// Sends `message` with `send`, and repeats it while containerd is unavailable. Each attempt is limited by [`ANSWER`].
    pub(super) async fn call<C, M, R, F>(
        &self,
        action: &'static str,
        subject: &str,
        client: C,
        message: M,
        send: impl Fn(C, Request<M>) -> F,
    ) -> Result<R, StoreError>
    where
        C: Clone,
        M: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.call_within(ANSWER, action, subject, client, message, send).await
    }

    async fn call_within<C, M, R, F>(
        &self,
        limit: Duration,
        action: &'static str,
        subject: &str,
        client: C,
        message: M,
        send: impl Fn(C, Request<M>) -> F,
    ) -> Result<R, StoreError>
    where
        C: Clone,
        M: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut pauses = pauses();
        loop {
            match within(limit, send(client.clone(), self.request(message.clone(), None))).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => match pauses.next().filter(|_| is_unavailable(&status)) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(failure(action, subject, status)),
                },
            }
        }
    }

    /// Takes a lease with a random id.
    pub(super) async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let lease = Lease(format!("prewasi-{}", uuid::Uuid::new_v4()));
        let mut pauses = pauses();
        loop {
            match self.create_lease(&lease, ttl).await {
                Ok(()) => return Ok(lease),
                // The id is random, so the lease is this call's own: an earlier attempt succeeded, and its answer was lost.
                Err(status) if status.code() == Code::AlreadyExists => return Ok(lease),
                Err(status) => match pauses.next().filter(|_| is_unavailable(&status)) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(failure("take", &format!("lease {}", lease.id()), status)),
                },
            }
        }
    }

    /// Creates a lease that expires after `ttl`, without retries.
    pub(super) async fn create_lease(&self, lease: &Lease, ttl: Duration) -> Result<(), Status> {
        let expires = Timestamp::try_from(SystemTime::now() + ttl)
            .map_err(|error| Status::invalid_argument(format!("a lease cannot last {ttl:?}: {error}")))?;
        let labels = [(labels::EXPIRES.to_owned(), expires.to_string())].into();
        let request = self.request(CreateRequest { id: lease.id().to_owned(), labels }, None);
        within(ANSWER, self.leases().create(request)).await.map(drop)
    }

    /// Deletes a lease, without retries. A missing lease is no error.
    pub(super) async fn delete_lease(&self, lease: &Lease) -> Result<(), Status> {
        let request = self.request(DeleteRequest { id: lease.id().to_owned(), sync: false }, None);
        match within(ANSWER, self.leases().delete(request)).await {
            Err(status) if status.code() != Code::NotFound => Err(status),
            _ => Ok(()),
        }
    }

    /// Deletes a lease; with `collect`, returns after a run of the garbage collector.
    pub(super) async fn end_lease(&self, lease: Lease, collect: bool) -> Result<(), StoreError> {
        let subject = format!("lease {}", lease.id());
        let request = DeleteRequest { id: lease.0, sync: collect };
        match self
            .call_within(COLLECT, "release", &subject, self.leases(), request, |mut client, r| async move {
                client.delete(r).await
            })
            .await
        {
            Err(StoreError::NotFound { .. }) => Ok(()),
            answer => answer,
        }
    }
}

/// Waits for an answer, within a time limit.
pub(super) async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", limit.as_secs()))),
    }
}

/// Converts a final status to the store's error.
pub(super) fn failure(action: &'static str, subject: &str, status: Status) -> StoreError {
    let subject = subject.to_owned();
    match status.code() {
        Code::NotFound => StoreError::NotFound { subject },
        _ if is_unavailable(&status) => StoreError::Unavailable { action, subject, source: Box::new(status) },
        _ => StoreError::Remote { action, subject, source: Box::new(status) },
    }
}
