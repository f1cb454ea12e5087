//! Follows images: first all that exist, then every change, across restarts of containerd.
//!
//! After each subscription all images are listed once, so that no change in between is missed. A receiver must expect to hear of an image
//! more than once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use prewasi_cache::{ContainerdStore, ContentStore as _, ImageChange, ImageEvents, StoreError};
use tokio::sync::mpsc::Sender;

use super::queue::Key;

/// The longest pause between two attempts to reach a containerd that is down.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A message to the receiver.
#[derive(Debug)]
pub(super) enum News {
    /// An image exists.
    Present(Key),
    /// An image was removed.
    Removed(Key),
    /// All images that existed at the subscription have been reported.
    Listed,
    /// The connection to containerd is lost.
    Lost(StoreError),
}

/// The receiver is gone.
struct Unheard;

/// The containerd to follow, and the namespaces of interest.
#[derive(Debug, Clone)]
pub(super) struct Follower {
    pub(super) address: PathBuf,
    /// Namespaces of interest; all if there are none.
    pub(super) namespaces: Vec<String>,
    pub(super) news: Sender<News>,
}

impl Follower {
    /// Reports existing images and changes, until the receiver is gone. `events` is the first subscription.
    pub(super) async fn follow(self, mut events: ImageEvents) {
        loop {
            let Ok(error) = self.tell(&mut events).await else { return };
            if self.say(News::Lost(error)).await.is_err() {
                return;
            }
            events = subscribe_again(&self.address).await;
        }
    }

    /// Reports existing images and changes, until the connection to containerd is lost.
    async fn tell(&self, events: &mut ImageEvents) -> Result<StoreError, Unheard> {
        match self.list().await? {
            Ok(()) => self.say(News::Listed).await?,
            Err(error) => return Ok(error),
        }
        loop {
            let event = match events.next().await {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(ended()),
                Err(error) => return Ok(error),
            };
            if !self.wants(&event.namespace) {
                continue;
            }
            let key = Key { namespace: event.namespace, image: event.image };
            self.say(match event.change {
                ImageChange::Present => News::Present(key),
                ImageChange::Removed => News::Removed(key),
            })
            .await?;
        }
    }

    /// Reports all images of all namespaces of interest.
    async fn list(&self) -> Result<Result<(), StoreError>, Unheard> {
        let images = match self.images().await {
            Ok(images) => images,
            Err(error) => return Ok(Err(error)),
        };
        for key in images {
            self.say(News::Present(key)).await?;
        }
        Ok(Ok(()))
    }

    async fn images(&self) -> Result<Vec<Key>, StoreError> {
        let mut keys = Vec::new();
        // The list of namespaces is the same in each of them.
        let all = ContainerdStore::connect(&self.address, "default").await?.namespaces().await?;
        for namespace in all.into_iter().filter(|namespace| self.wants(namespace)) {
            let records = ContainerdStore::connect(&self.address, &namespace).await?.images().await?;
            keys.extend(records.into_iter().map(|record| Key { namespace: namespace.clone(), image: record.name }));
        }
        Ok(keys)
    }

    fn wants(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|wanted| wanted == namespace)
    }

    async fn say(&self, news: News) -> Result<(), Unheard> {
        self.news.send(news).await.map_err(|_| Unheard)
    }
}

/// Subscribes as soon as containerd is up again, however long that takes.
async fn subscribe_again(address: &Path) -> ImageEvents {
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter()
        .build();
    loop {
        tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
        match ImageEvents::subscribe(address).await {
            Ok(events) => return events,
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "containerd is still away"),
        }
    }
}

fn ended() -> StoreError {
    StoreError::Unavailable {
        action: "read",
        subject: "image events".to_owned(),
        source: "containerd has ended the subscription".into(),
    }
}
