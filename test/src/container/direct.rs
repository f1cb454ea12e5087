//! Containers that are created by direct calls to a shim, with metadata that some versions of containerd do not send.

use std::collections::HashMap;
use std::time::Duration;

use containerd_shim_protos::api::{CreateTaskRequest, DeleteRequest, Mount, StartRequest, WaitRequest};
use containerd_shim_protos::shim_async::TaskClient;
use ttrpc::r#async::Client;
use ttrpc::context::{Context, with_duration};

use super::{Builder, Container, remove};

const LIMIT: Duration = Duration::from_secs(30);

impl Builder {
    /// Creates a container by calls with this metadata to the shim of another container, and runs it to its end. Returns its id and its
    /// output.
    ///
    /// # Panics
    /// If a step fails.
    pub async fn run_beside(self, other: &Container, metadata: &[(&str, &str)]) -> (String, String) {
        let namespace = self.namespace.clone();
        let id = namespace.fresh_id("direct");
        let (mounts, spec) = self.prepare(&id).await;
        let bundle = namespace.folder().join(format!("bundle-{id}"));
        std::fs::create_dir_all(bundle.join("rootfs")).expect("the folder is ours");
        std::fs::write(bundle.join("config.json"), spec.to_string()).expect("the folder is ours");
        let (streams, _, stdout, stderr) = self.streams.make(&namespace.folder().join(&id));
        let rootfs = mounts.into_iter().map(|mount| Mount {
            type_: mount.r#type,
            source: mount.source,
            target: mount.target,
            options: mount.options,
            ..Default::default()
        });
        let address = std::fs::read_to_string(other.bundle().join("address")).expect("a shim has an address");
        let shim = TaskClient::new(Client::connect(&address).await.expect("a shim serves"));
        let metadata = || -> Context {
            let own = metadata.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()]));
            Context { metadata: own.collect::<HashMap<_, _>>(), ..with_duration(LIMIT) }
        };
        let create = CreateTaskRequest {
            id: id.clone(),
            bundle: bundle.to_string_lossy().into_owned(),
            rootfs: rootfs.collect(),
            stdout,
            stderr,
            ..Default::default()
        };
        let done = "a shim does what it is asked for";
        shim.create(metadata(), &create).await.expect(done);
        shim.start(metadata(), &StartRequest { id: id.clone(), ..Default::default() }).await.expect(done);
        shim.wait(metadata(), &WaitRequest { id: id.clone(), ..Default::default() }).await.expect(done);
        shim.delete(metadata(), &DeleteRequest { id: id.clone(), ..Default::default() }).await.expect(done);
        remove(&namespace, &id).await;
        let printed = streams.stdout.text();
        std::fs::remove_dir_all(&bundle).expect("the folder is ours");
        (id, printed)
    }
}
