//! Events about image records, from a subscription to containerd.

use std::path::Path;
use std::time::Duration;

use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{ImageCreate, ImageDelete, ImageUpdate};
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::types::Envelope;
use prost::{DecodeError, Message as _};
use prost_types::Any;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use super::link::{ANSWER, Link, failure, within};
use crate::StoreError;

/// Topic of the probes. containerd does not confirm a subscription before its first event. So the subscriber publishes probes: once a
/// probe arrives, the subscription stands.
const PROBE_TOPIC: &str = "/prewasi/watch";
/// Interval between probes. The first ones may be published too early.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// The namespace in a probe's metadata; containerd does not create it.
const PROBE_NAMESPACE: &str = "prewasi";

/// A change of an image record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageChange {
    /// The record was created or changed.
    Present,
    /// The record was deleted.
    Removed,
}

/// An event about an image record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEvent {
    /// containerd namespace of the record.
    pub namespace: String,
    /// Name of the record.
    pub image: String,
    /// The change.
    pub change: ImageChange,
}

/// A subscription to events about image records in all namespaces of a containerd. It lasts as long as the connection.
pub struct ImageEvents {
    stream: Streaming<Envelope>,
    description: String,
}

impl ImageEvents {
    /// Subscribes at the containerd behind the unix socket `address`. Every change after the return of this function is reported.
    ///
    /// # Errors
    /// [`StoreError::Connect`] if no process listens on the socket; [`StoreError::Unavailable`], [`StoreError::Remote`] if containerd
    /// refuses.
    pub async fn subscribe(address: &Path) -> Result<Self, StoreError> {
        let link = Link::connect(address, PROBE_NAMESPACE).await?;
        let filters = vec!["topic~=\"^/images/\"".to_owned(), format!("topic==\"{PROBE_TOPIC}\"")];
        let mut client = link.events();
        let subscription = async { client.subscribe(SubscribeRequest { filters }).await.map(Response::into_inner) };
        let stream = within(ANSWER, async {
            tokio::select! {
                stream = subscription => stream,
                refused = probe(&link) => Err(refused),
            }
        });
        let stream = stream.await.map_err(|status| failure("subscribe to", "image events", status))?;
        Ok(Self { stream, description: link.describe().to_owned() })
    }

    /// Waits for the next event; `None` when containerd ends the subscription.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Remote`] if the connection breaks. An event that cannot be decoded is logged and
    /// skipped.
    pub async fn next(&mut self) -> Result<Option<ImageEvent>, StoreError> {
        loop {
            let next = self.stream.message().await;
            let Some(envelope) = next.map_err(|status| failure("read", "image events", status))? else {
                return Ok(None);
            };
            match image_event(&envelope) {
                Ok(Some(event)) => return Ok(Some(event)),
                Ok(None) => {}
                Err(error) => {
                    let (store, topic) = (&self.description, &envelope.topic);
                    tracing::debug!(store, topic, %error, "an event cannot be understood");
                }
            }
        }
    }
}

/// Sends probes until this is dropped; returns if containerd refuses one.
async fn probe(link: &Link) -> Status {
    let mut client: EventsClient<Channel> = link.events();
    let mut every = tokio::time::interval(PROBE_EVERY);
    loop {
        every.tick().await;
        let event = Some(Any { type_url: "prewasi.io/watch".to_owned(), value: Vec::new() });
        let request = link.request(PublishRequest { topic: PROBE_TOPIC.to_owned(), event }, None);
        if let Err(status) = client.publish(request).await {
            return status;
        }
    }
}

/// Decodes an event; `None` for events about other objects.
fn image_event(envelope: &Envelope) -> Result<Option<ImageEvent>, DecodeError> {
    let bytes = envelope.event.as_ref().map(|event| event.value.as_slice()).unwrap_or_default();
    let (image, change) = match envelope.topic.as_str() {
        "/images/create" => (ImageCreate::decode(bytes)?.name, ImageChange::Present),
        "/images/update" => (ImageUpdate::decode(bytes)?.name, ImageChange::Present),
        "/images/delete" => (ImageDelete::decode(bytes)?.name, ImageChange::Removed),
        _ => return Ok(None),
    };
    Ok(Some(ImageEvent { namespace: envelope.namespace.clone(), image, change }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(topic: &str, value: Vec<u8>) -> Envelope {
        let event = Some(Any { type_url: String::new(), value });
        Envelope { timestamp: None, namespace: "k8s.io".to_owned(), topic: topic.to_owned(), event }
    }

    /// Created and updated images are present, deleted ones are removed; other topics are skipped, and a malformed event is an error.
    #[test]
    fn events_are_read() {
        let name = || "localhost/a:v1".to_owned();
        let created = ImageCreate { name: name(), ..Default::default() }.encode_to_vec();
        let deleted = ImageDelete { name: name() }.encode_to_vec();
        let event = |change| ImageEvent { namespace: "k8s.io".to_owned(), image: name(), change };
        assert_eq!(image_event(&envelope("/images/create", created.clone())), Ok(Some(event(ImageChange::Present))));
        assert_eq!(image_event(&envelope("/images/update", created.clone())), Ok(Some(event(ImageChange::Present))));
        assert_eq!(image_event(&envelope("/images/delete", deleted)), Ok(Some(event(ImageChange::Removed))));
        assert_eq!(image_event(&envelope("/tasks/create", created)), Ok(None));
        assert!(image_event(&envelope("/images/create", vec![0xff])).is_err());
    }
}
