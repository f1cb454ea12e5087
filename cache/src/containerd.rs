//! containerd's content store over gRPC.
//!
//! Every call carries the namespace and has a time limit. Every call is idempotent, and is repeated while containerd is unavailable.
//! Messages stay far below containerd's limit of 16 MiB. An update of a label names its key alone, so other labels keep their values.
//! Local files are read and written on the calling thread: no thread is started in a process that may fork.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{
    AddResourceRequest, DeleteContentRequest, GetImageRequest, Image, Info, InfoRequest, ListContentRequest,
    ListImagesRequest, ListNamespacesRequest, PluginsRequest, Resource, UpdateImageRequest, UpdateRequest,
};
use containerd_client::types::Descriptor;
use prost_types::FieldMask;
use tokio::sync::OnceCell;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::retry::{is_unavailable, pauses};
use crate::store::{check_label, io_error};
use crate::{BlobFile, BlobInfo, ContentStore, Digest, ImageRecord, Lease, Lock, NewBlob, StoreError};

mod container;
mod events;
mod fetch;
mod ingest;
mod link;
mod lock;
mod upload;

pub use container::{ContainerRecord, Extension};
pub use events::{ImageChange, ImageEvent, ImageEvents};
use link::{COLLECT, Link};
use upload::{Failure, Outcome};

/// The content store of one namespace of a containerd.
pub struct ContainerdStore {
    link: Link,
    local_files: bool,
    /// Folder of containerd's blobs, after the first request for it.
    root: OnceCell<Option<PathBuf>>,
}

impl ContainerdStore {
    /// Connects to the containerd behind the unix socket `address`; all reads and writes are in `namespace`.
    ///
    /// # Errors
    /// [`StoreError::Connect`] if no process listens on the socket, or the namespace is not valid as gRPC metadata.
    pub async fn connect(address: &Path, namespace: &str) -> Result<Self, StoreError> {
        let link = Link::connect(address, namespace).await?;
        Ok(Self { link, local_files: true, root: OnceCell::new() })
    }

    /// Disables access to containerd's own files: every blob is read over gRPC, as when containerd's folder is out of reach.
    #[must_use]
    pub fn without_local_files(self) -> Self {
        Self { local_files: false, ..self }
    }

    /// Returns containerd's version, e.g. `2.1.9`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Remote`].
    pub async fn version(&self) -> Result<String, StoreError> {
        let answer = self
            .link
            .call("ask for", "containerd's version", self.link.version(), (), |mut client, r| async move {
                client.version(r).await
            })
            .await?;
        Ok(answer.version)
    }

    /// Lists the image records with this manifest or index.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Remote`].
    pub async fn images_of(&self, target: &Digest) -> Result<Vec<ImageRecord>, StoreError> {
        self.list_images(vec![format!("target.digest=={target}")]).await
    }

    async fn list_images(&self, filters: Vec<String>) -> Result<Vec<ImageRecord>, StoreError> {
        let request = ListImagesRequest { filters };
        let answer = self
            .link
            .call("list", "images", self.link.images(), request, |mut client, r| async move { client.list(r).await })
            .await?;
        answer.images.into_iter().map(image_record).collect()
    }

    /// Lists the names of all namespaces of this containerd.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Remote`].
    pub async fn namespaces(&self) -> Result<Vec<String>, StoreError> {
        let request = ListNamespacesRequest::default();
        let answer =
            self.link
                .call("list", "namespaces", self.link.namespaces(), request, |mut client, r| async move {
                    client.list(r).await
                })
                .await?;
        Ok(answer.namespaces.into_iter().map(|namespace| namespace.name).collect())
    }

    /// Returns the folder of containerd's content store; `None` if containerd does not report it.
    pub async fn content_root(&self) -> Option<&PathBuf> {
        let ask = async || {
            let request = PluginsRequest { filters: vec!["type==io.containerd.content.v1".to_owned()] };
            let answer = self
                .link
                .call(
                    "ask for",
                    "the content store's root",
                    self.link.introspection(),
                    request,
                    |mut client, r| async move { client.plugins(r).await },
                )
                .await?;
            Ok(answer.plugins.into_iter().find_map(|plugin| plugin.exports.get("root").map(PathBuf::from)))
        };
        match self.root.get_or_try_init(ask).await {
            Ok(root) => root.as_ref(),
            Err::<_, StoreError>(error) => {
                tracing::debug!(%error, "reading blobs over gRPC");
                None
            }
        }
    }

    /// Adds an existing blob to the lease and sets its labels. Returns `false` if the blob has just been collected, and must be written
    /// after all.
    async fn adopt(&self, lease: &Lease, blob: NewBlob<'_>) -> Result<bool, StoreError> {
        let subject = format!("blob {} to lease {}", blob.digest, lease.id());
        let resource = Resource { id: blob.digest.to_string(), r#type: "content".to_owned() };
        let request = AddResourceRequest { id: lease.id().to_owned(), resource: Some(resource) };
        self.link
            .call(
                "add",
                &subject,
                self.link.leases(),
                request,
                |mut client, r| async move { client.add_resource(r).await },
            )
            .await?;
        let Some(info) = self.info(blob.digest).await? else { return Ok(false) };
        for (key, value) in blob.labels {
            if info.labels.get(key) != Some(value) {
                self.set_label(blob.digest, key, value).await?;
            }
        }
        Ok(true)
    }
}

#[async_trait]
impl ContentStore for ContainerdStore {
    fn describe(&self) -> String {
        self.link.describe().to_owned()
    }

    async fn info(&self, digest: &Digest) -> Result<Option<BlobInfo>, StoreError> {
        let request = InfoRequest { digest: digest.to_string() };
        let answer = self
            .link
            .call("look at", &format!("blob {digest}"), self.link.content(), request, |mut client, r| async move {
                client.info(r).await
            })
            .await;
        match answer {
            Ok(answer) => answer.info.map(blob_info).transpose(),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let size = self.existing(digest).await?.size;
        if size > limit {
            return Err(StoreError::TooLarge { digest: digest.clone(), size, limit });
        }
        fetch::bytes(&self.link, digest, size).await
    }

    async fn open(&self, digest: &Digest) -> Result<BlobFile, StoreError> {
        let size = self.existing(digest).await?.size;
        if self.local_files
            && let Some(root) = self.content_root().await
            && let Some(blob) = fetch::local(root, digest, size)
        {
            return Ok(blob);
        }
        fetch::memfd(&self.link, digest, size).await
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.link.lease(ttl).await
    }

    async fn release(&self, lease: Lease) -> Result<(), StoreError> {
        self.link.end_lease(lease, false).await
    }

    async fn write(&self, lease: &Lease, blob: NewBlob<'_>) -> Result<(), StoreError> {
        let subject = format!("blob {}", blob.digest);
        for (key, value) in blob.labels {
            check_label(&subject, key, value)?;
        }
        let mut pauses = pauses();
        loop {
            let failure = match upload::upload(&self.link, lease, blob).await {
                Ok(Outcome::Committed) => return Ok(()),
                Ok(Outcome::Exists) if self.adopt(lease, blob).await? => return Ok(()),
                Ok(Outcome::Exists) => Status::unavailable("the blob was collected while it was being leased"),
                Err(Failure::Remote(status)) if is_unavailable(&status) => status,
                Err(Failure::Remote(status)) => return Err(refused(blob, status)),
                Err(Failure::Local(error)) => return Err(error),
            };
            match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(link::failure("write", &subject, failure)),
            }
        }
    }

    async fn set_label(&self, digest: &Digest, key: &str, value: &str) -> Result<(), StoreError> {
        let subject = format!("blob {digest}");
        check_label(&subject, key, value)?;
        let labels = [(key.to_owned(), value.to_owned())].into();
        let info = Info { digest: digest.to_string(), labels, ..Info::default() };
        let request = UpdateRequest { info: Some(info), update_mask: Some(one_label(key)) };
        self.link
            .call(
                "label",
                &subject,
                self.link.content(),
                request,
                |mut client, r| async move { client.update(r).await },
            )
            .await?;
        Ok(())
    }

    async fn delete(&self, digest: &Digest) -> Result<(), StoreError> {
        let request = DeleteContentRequest { digest: digest.to_string() };
        match self
            .link
            .call("delete", &format!("blob {digest}"), self.link.content(), request, |mut client, r| async move {
                client.delete(r).await
            })
            .await
        {
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let lease = self.link.lease(COLLECT).await?;
        self.link.end_lease(lease, true).await
    }

    async fn blobs(&self) -> Result<Vec<BlobInfo>, StoreError> {
        let list = |mut client: ContentClient<Channel>, r| async move {
            let mut answers = client.list(r).await?;
            let mut infos = Vec::new();
            while let Some(answer) = answers.get_mut().message().await? {
                infos.extend(answer.info);
            }
            Ok(Response::new(infos))
        };
        let request = ListContentRequest::default();
        let infos = self.link.call("list", "blobs", self.link.content(), request, list).await?;
        Ok(infos.into_iter().filter_map(|info| blob_info(info).ok()).collect())
    }

    async fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        self.list_images(Vec::new()).await
    }

    async fn image(&self, name: &str) -> Result<Option<ImageRecord>, StoreError> {
        let request = GetImageRequest { name: name.to_owned() };
        match self
            .link
            .call("look up", &format!("image {name}"), self.link.images(), request, |mut client, r| async move {
                client.get(r).await
            })
            .await
        {
            Ok(answer) => answer.image.map(image_record).transpose(),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn set_image_label(&self, name: &str, key: &str, value: &str) -> Result<(), StoreError> {
        let subject = format!("image {name}");
        check_label(&subject, key, value)?;
        let labels = [(key.to_owned(), value.to_owned())].into();
        // The mask leaves the target alone, but containerd 1.7 and 2.1 crash on a message without one.
        let target = Some(Descriptor::default());
        let image = Image { name: name.to_owned(), labels, target, ..Image::default() };
        let request =
            UpdateImageRequest { image: Some(image), update_mask: Some(one_label(key)), ..Default::default() };
        self.link
            .call("label", &subject, self.link.images(), request, |mut client, r| async move { client.update(r).await })
            .await?;
        Ok(())
    }

    async fn try_lock(&self, name: &str) -> Result<Option<Lock>, StoreError> {
        lock::try_lock(&self.link, name).await
    }
}

impl ContainerdStore {
    /// Returns size and labels of a blob that should exist.
    async fn existing(&self, digest: &Digest) -> Result<BlobInfo, StoreError> {
        self.info(digest).await?.ok_or_else(|| StoreError::NotFound { subject: format!("blob {digest}") })
    }
}

/// Limits an update to one label. containerd takes the whole rest of the path after `labels.` as the key, with its dots and slashes.
fn one_label(key: &str) -> FieldMask {
    FieldMask { paths: vec![format!("labels.{key}")] }
}

/// Distinguishes bytes that do not match their digest from all other reasons of a refusal.
fn refused(blob: NewBlob<'_>, status: Status) -> StoreError {
    if status.code() == Code::FailedPrecondition {
        match Digest::of_file(blob.file, blob.size) {
            Ok(actual) if actual != *blob.digest => return StoreError::Corrupt { digest: blob.digest.clone(), actual },
            Ok(_) => {}
            Err(error) => return io_error("hash what was to become blob", blob.digest)(error),
        }
    }
    link::failure("write", &format!("blob {}", blob.digest), status)
}

fn blob_info(info: Info) -> Result<BlobInfo, StoreError> {
    let digest: Digest = parse(&info.digest, "a blob's digest")?;
    Ok(BlobInfo {
        size: u64::try_from(info.size).unwrap_or(0),
        labels: info.labels.into_iter().collect::<BTreeMap<_, _>>(),
        created: info.created_at.and_then(|time| SystemTime::try_from(time).ok()),
        digest,
    })
}

fn image_record(image: Image) -> Result<ImageRecord, StoreError> {
    let target = image.target.unwrap_or_default();
    Ok(ImageRecord {
        target: parse(&target.digest, &format!("the target of image {}", image.name))?,
        media_type: target.media_type,
        labels: image.labels.into_iter().collect(),
        name: image.name,
    })
}

fn parse(text: &str, subject: &str) -> Result<Digest, StoreError> {
    text.parse().map_err(|error| StoreError::Malformed { subject: subject.to_owned(), source: Box::new(error) })
}
