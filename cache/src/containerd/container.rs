//! Container records: the image of a container, and prewasi's notes.
//!
//! A note is an *extension* of the record, not a label: clients copy an image's own labels to the record. Only clients of containerd,
//! which are root, write extensions.

use std::collections::BTreeMap;

use containerd_client::services::v1::{Container, GetContainerRequest, UpdateContainerRequest};
use prost_types::{Any, FieldMask};

use super::ContainerdStore;
use crate::store::check_label;
use crate::{Digest, StoreError, labels};

/// The relevant part of a container's record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerRecord {
    /// Name of the image that the container was made from.
    pub image: Option<String>,
    /// The record's labels; clients copy those of the image here.
    pub labels: BTreeMap<String, String>,
    /// Extensions that clients store with the record, by name.
    pub extensions: BTreeMap<String, Extension>,
}

/// A message that a client stores with a container: a protobuf `Any`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extension {
    /// Type URL of the message.
    pub type_url: String,
    /// The encoded message.
    pub value: Vec<u8>,
}

impl ContainerdStore {
    /// Returns the record of the container `id`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such container; [`StoreError::Unavailable`], [`StoreError::Remote`].
    pub async fn container(&self, id: &str) -> Result<ContainerRecord, StoreError> {
        let subject = format!("container {id}");
        let request = GetContainerRequest { id: id.to_owned() };
        let answer = self
            .link
            .call("read", &subject, self.link.containers(), request, |mut client, r| async move { client.get(r).await })
            .await?;
        let container = answer.container.unwrap_or_default();
        let extension = |Any { type_url, value }| Extension { type_url, value };
        Ok(ContainerRecord {
            image: Some(container.image).filter(|image| !image.is_empty()),
            labels: container.labels.into_iter().collect(),
            extensions: container.extensions.into_iter().map(|(name, any)| (name, extension(any))).collect(),
        })
    }

    /// Sets one extension of a container's record, and a label with which the record keeps the blob `keeps` from collection. Other fields
    /// stay unchanged.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the container; [`StoreError::Unavailable`], [`StoreError::Remote`].
    pub async fn note_container(
        &self,
        id: &str,
        name: &str,
        type_url: &str,
        note: Vec<u8>,
        keeps: &Digest,
    ) -> Result<(), StoreError> {
        let subject = format!("container {id}");
        check_label(&subject, labels::KEEP_IMAGE, keeps.as_str())?;
        let extension = Any { type_url: type_url.to_owned(), value: note };
        let container = Container {
            id: id.to_owned(),
            labels: [(labels::KEEP_IMAGE.to_owned(), keeps.to_string())].into(),
            extensions: [(name.to_owned(), extension)].into(),
            ..Container::default()
        };
        let mask = FieldMask { paths: vec![format!("extensions.{name}"), format!("labels.{}", labels::KEEP_IMAGE)] };
        let request = UpdateContainerRequest { container: Some(container), update_mask: Some(mask) };
        self.link
            .call(
                "update",
                &subject,
                self.link.containers(),
                request,
                |mut client, r| async move { client.update(r).await },
            )
            .await?;
        Ok(())
    }
}
