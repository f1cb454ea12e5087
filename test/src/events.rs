//! The events that containerd publishes in one namespace, in the order of their arrival.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::types::Envelope;
use prost::Message;
use tokio::task::JoinHandle;

use crate::eventually::eventually;
use crate::namespace::Namespace;

/// Time limit for an event to arrive.
const LIMIT: Duration = Duration::from_secs(10);
/// Topic of the event that confirms the subscription.
const READY: &str = "/prewasi-test/ready";

/// A subscription that lasts until it is dropped.
#[derive(Debug)]
pub struct Events {
    seen: Arc<Mutex<Vec<Envelope>>>,
    reader: JoinHandle<()>,
}

impl Events {
    /// Subscribes to all events of a namespace, and waits until the subscription stands.
    ///
    /// # Panics
    /// If containerd refuses.
    pub async fn subscribe(namespace: &Namespace) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let filters = vec![format!("namespace=={}", namespace.name())];
        let mut client = namespace.client().events();
        let reader = tokio::spawn({
            let seen = seen.clone();
            async move {
                // containerd answers with the first event, not before.
                let stream = client.subscribe(SubscribeRequest { filters }).await;
                let mut stream = stream.expect("containerd takes subscribers").into_inner();
                while let Ok(Some(envelope)) = stream.message().await {
                    seen.lock().expect("no holder panics").push(envelope);
                }
            }
        });
        let this = Self { seen, reader };
        eventually("an event of our own", LIMIT, async || {
            let event = prost_types::Any { type_url: "prewasi.test/Ready".to_owned(), value: Vec::new() };
            let request = PublishRequest { topic: READY.to_owned(), event: Some(event) };
            let published = namespace.client().events().publish(namespace.request(request)).await;
            published.map_err(|status| status.to_string())?;
            if this.topics(READY).is_empty() { Err("nothing".to_owned()) } else { Ok(()) }
        })
        .await;
        this
    }

    /// Waits for an event of this topic, and returns it.
    ///
    /// # Panics
    /// If none arrives in time, or its type is not `M`.
    pub async fn next<M: Message + Default>(&self, topic: &str) -> M {
        eventually(&format!("an event {topic}"), LIMIT, async || {
            let seen = self.seen.lock().expect("no holder panics");
            match seen.iter().find(|envelope| envelope.topic == topic) {
                Some(envelope) => {
                    let event = envelope.event.as_ref().expect("an envelope holds an event");
                    Ok(M::decode(event.value.as_slice()).expect("the event has the type of its topic"))
                }
                None => Err(format!("{:?}", seen.iter().map(|envelope| envelope.topic.as_str()).collect::<Vec<_>>())),
            }
        })
        .await
    }

    /// Returns all events of this topic, in the order of their arrival.
    ///
    /// # Panics
    /// If the type of one is not `M`.
    pub fn all<M: Message + Default>(&self, topic: &str) -> Vec<M> {
        let seen = self.seen.lock().expect("no holder panics");
        let events =
            seen.iter().filter(|envelope| envelope.topic == topic).filter_map(|envelope| envelope.event.as_ref());
        events.map(|event| M::decode(event.value.as_slice()).expect("the event has the type of its topic")).collect()
    }

    /// Returns the topics that begin with `prefix`, in the order of their arrival.
    pub fn topics(&self, prefix: &str) -> Vec<String> {
        let seen = self.seen.lock().expect("no holder panics");
        seen.iter().map(|envelope| envelope.topic.clone()).filter(|topic| topic.starts_with(prefix)).collect()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
