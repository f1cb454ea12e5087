//! Containers that are created by direct calls to a shim, with metadata that some versions of containerd do not send.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use containerd_shim_protos::api::{CreateTaskRequest, DeleteRequest, Mount, StartRequest, WaitRequest};
use containerd_shim_protos::shim_async::TaskClient;
use ttrpc::r#async::Client;
use ttrpc::context::{Context, with_duration};

use super::streams::Streams;
use super::{Builder, Container, remove};
use crate::namespace::Namespace;

const LIMIT: Duration = Duration::from_secs(30);

/// The bundle and streams of a container, made as containerd makes them for a shim.
pub struct Bundle {
    /// The folder with the specification.
    pub path: PathBuf,
    /// The mounts of its root filesystem.
    pub rootfs: Vec<Mount>,
    streams: Streams,
    stdout: String,
    stderr: String,
    namespace: Namespace,
    id: String,
}

impl Bundle {
    /// Puts the values of this container into a request for it; the rest of the request stays unchanged.
    pub fn put_into(&self, request: &mut CreateTaskRequest) {
        request.id.clone_from(&self.id);
        request.bundle = self.path.to_string_lossy().into_owned();
        request.rootfs.clone_from(&self.rootfs);
        request.stdin.clear();
        request.stdout.clone_from(&self.stdout);
        request.stderr.clone_from(&self.stderr);
    }

    /// Returns the text on standard output so far.
    pub fn stdout(&self) -> String {
        self.streams.stdout.text()
    }

    /// Removes the container's record and the folder.
    ///
    /// # Panics
    /// If they cannot be removed.
    pub async fn remove(self) {
        remove(&self.namespace, &self.id).await;
        std::fs::remove_dir_all(&self.path).expect("the folder is ours");
    }
}

impl Builder {
    /// Makes all that a shim is given of the container, and containerd's record of it, but no task.
    ///
    /// # Panics
    /// If that fails.
    pub async fn bundle(self) -> Bundle {
        let namespace = self.namespace.clone();
        let id = self.id.clone().unwrap_or_else(|| namespace.fresh_id("direct"));
        let (mounts, spec) = self.prepare(&id).await;
        let path = namespace.folder().join(namespace.fresh_id("bundle"));
        std::fs::create_dir_all(path.join("rootfs")).expect("the folder is ours");
        std::fs::write(path.join("config.json"), spec.to_string()).expect("the folder is ours");
        let (streams, _, stdout, stderr) = self.streams.make(&namespace.folder().join(namespace.fresh_id("streams")));
        let rootfs = mounts.into_iter().map(|mount| Mount {
            type_: mount.r#type,
            source: mount.source,
            target: mount.target,
            options: mount.options,
            ..Default::default()
        });
        Bundle { path, rootfs: rootfs.collect(), streams, stdout, stderr, namespace, id }
    }

    /// Creates a container by calls with this metadata to the shim of another container, and runs it to its end. Returns its id and its
    /// output.
    ///
    /// # Panics
    /// If that fails.
    pub async fn run_beside(self, other: &Container, metadata: &[(&str, &str)]) -> (String, String) {
        let bundle = self.bundle().await;
        let id = bundle.id.clone();
        let address = std::fs::read_to_string(other.bundle().join("address")).expect("a shim has an address");
        let shim = TaskClient::new(Client::connect(&address).await.expect("a shim serves"));
        let metadata = || -> Context {
            let own = metadata.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()]));
            Context { metadata: own.collect::<HashMap<_, _>>(), ..with_duration(LIMIT) }
        };
        let mut create = CreateTaskRequest::default();
        bundle.put_into(&mut create);
        let done = "a shim does what it is asked for";
        shim.create(metadata(), &create).await.expect(done);
        shim.start(metadata(), &StartRequest { id: id.clone(), ..Default::default() }).await.expect(done);
        shim.wait(metadata(), &WaitRequest { id: id.clone(), ..Default::default() }).await.expect(done);
        shim.delete(metadata(), &DeleteRequest { id: id.clone(), ..Default::default() }).await.expect(done);
        let printed = bundle.stdout();
        bundle.remove().await;
        (id, printed)
    }
}
