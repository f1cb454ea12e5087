//! A containerd namespace for one test: images, blobs and their labels, programs that run on it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use containerd_client::Client;
use containerd_client::services::v1::{
    CreateImageRequest, CreateRequest as CreateLeaseRequest, DeleteContainerRequest, DeleteContentRequest,
    DeleteImageRequest, DeleteNamespaceRequest, DeleteRequest as DeleteLeaseRequest, GetImageRequest,
    Image as ImageRecord, InfoRequest, ListContainersRequest, ListImagesRequest, ListTasksRequest,
    UpdateRequest as UpdateContentRequest,
};
use containerd_client::services::v1::{DeleteTaskRequest, Info, KillRequest, WaitRequest};
use containerd_client::types::Descriptor;
use tonic::{Code, Request, Status};

use crate::container::Builder;
use crate::containerd::{Containerd, PROGRAM_LIMIT, Series};
use crate::events::Events;
use crate::home;
use crate::leaks;
use crate::process::{self, Output};

/// The image that [`Namespace::collect_garbage`] makes and removes.
const UNRELATED: &str = "localhost/unrelated:latest";

/// The engine of containers that name none.
pub const DEFAULT_ENGINE: &str = "wasmtime";

/// A namespace; clones share it.
#[derive(Clone)]
pub struct Namespace {
    inner: Arc<Inner>,
    engine: &'static str,
}

struct Inner {
    daemon: Arc<Containerd>,
    name: String,
    folder: PathBuf,
    client: Client,
    containers: AtomicUsize,
}

impl Namespace {
    /// Makes a namespace that no other test uses.
    ///
    /// # Panics
    /// If containerd cannot be reached.
    pub async fn create(daemon: Arc<Containerd>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{}-{}", daemon.id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = daemon.folder().join(&name);
        std::fs::create_dir(&folder).expect("the daemon's folder is ours");
        let client = Client::from_path(daemon.address()).await.expect("containerd is reachable");
        let inner = Inner { daemon, name, folder, client, containers: AtomicUsize::new(0) };
        Self { inner: Arc::new(inner), engine: DEFAULT_ENGINE }
    }

    /// Uses the shim of another engine for the namespace's containers.
    #[must_use]
    pub fn with_engine(self, engine: &'static str) -> Self {
        Self { engine, ..self }
    }

    /// Returns the name of the engine.
    pub fn engine(&self) -> &'static str {
        self.engine
    }

    /// Returns the runtime of its containers.
    pub fn runtime(&self) -> String {
        format!("io.containerd.{}.v1", self.engine)
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Returns the namespace's containerd.
    pub fn daemon(&self) -> &Containerd {
        &self.inner.daemon
    }

    /// Returns the test's own folder.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// Makes another namespace on the same containerd.
    ///
    /// # Panics
    /// If containerd cannot be reached.
    pub async fn another(&self) -> Self {
        Self::create(self.inner.daemon.clone()).await.with_engine(self.engine)
    }

    /// Returns the client; requests to it are made by [`Self::request`].
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// Wraps a message in a request on this namespace.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.name().parse().expect("the name is ASCII"));
        request
    }

    /// Wraps a message in a request on this namespace, under a lease.
    pub fn leased<T>(&self, lease: &str, message: T) -> Request<T> {
        let mut request = self.request(message);
        request.metadata_mut().insert("containerd-lease", lease.parse().expect("the id is ASCII"));
        request
    }

    /// Takes a lease that lasts until it is released.
    ///
    /// # Panics
    /// If containerd refuses.
    pub async fn lease(&self) -> String {
        let id = self.fresh_id("lease");
        let request = CreateLeaseRequest { id: id.clone(), ..Default::default() };
        self.client().leases().create(self.request(request)).await.expect("a lease can be had");
        id
    }

    /// Releases a lease.
    ///
    /// # Panics
    /// If containerd refuses.
    pub async fn release(&self, lease: String) {
        let request = DeleteLeaseRequest { id: lease, sync: false };
        self.client().leases().delete(self.request(request)).await.expect("a lease can be given back");
    }

    /// Returns an id that is unique in this namespace.
    pub fn fresh_id(&self, kind: &str) -> String {
        format!("{kind}-{}", self.inner.containers.fetch_add(1, Ordering::Relaxed))
    }

    /// Begins the description of a container of an image.
    pub fn container(&self, image: &str) -> Builder {
        Builder::new(self.clone(), image)
    }

    /// Subscribes to the namespace's events.
    pub async fn events(&self) -> Events {
        Events::subscribe(self).await
    }

    // --- Programs ---------------------------------------------------------------------------------------------------

    /// Runs the daemon's own `ctr` on this namespace, and waits for its end.
    pub fn ctr(&self, args: &[&str]) -> Output {
        self.daemon().ctr(self.name(), args)
    }

    /// Runs a container of an image by `ctr run --rm`, with the wasmtime shim.
    pub fn ctr_run(&self, image: &str, args: &[&str]) -> Output {
        let id = self.fresh_id("ctr");
        self.ctr(&[&["run", "--rm", "--runtime", self.runtime().as_str(), image, id.as_str()], args].concat())
    }

    /// Runs `prewasi VERB` on this namespace, and waits for its end; with another engine it runs the same verb of that engine's shim.
    pub fn prewasi(&self, verb: &str, args: &[&str]) -> Output {
        process::run(&mut self.command(self.administrator(), verb, args), PROGRAM_LIMIT)
    }

    /// Returns the program that has the verbs of `prewasi` for this namespace's engine.
    pub fn administrator(&self) -> PathBuf {
        match self.engine {
            DEFAULT_ENGINE => home::program("prewasi"),
            engine => home::program(&format!("containerd-shim-{engine}-v1")),
        }
    }

    /// Runs `prewasi VERB` like [`Self::prewasi`], with further environment variables.
    pub fn prewasi_with(&self, verb: &str, args: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = self.command(self.administrator(), verb, args);
        command.envs(environment.iter().copied());
        process::run(&mut command, PROGRAM_LIMIT)
    }

    /// Runs a verb of one of the workspace's programs on this namespace, and waits for its end.
    pub fn program(&self, program: &str, verb: &str, args: &[&str]) -> Output {
        process::run(&mut self.command(home::program(program), verb, args), PROGRAM_LIMIT)
    }

    fn command(&self, program: PathBuf, verb: &str, args: &[&str]) -> Command {
        let mut command = self.daemon().command(program);
        command.arg(verb).arg("--address").arg(self.daemon().address()).args(["--namespace", self.name()]).args(args);
        command
    }

    // --- Images -----------------------------------------------------------------------------------------------------

    /// Imports a tar with images for this machine, or with wasm images for `<os>/wasm`.
    ///
    /// # Panics
    /// If `ctr` fails.
    pub fn import(&self, tar: &Path, os: &str) {
        // With 1.7 `--all-platforms` fails for indexes without an entry for this machine; since 2.3 `--platform` fails for all.
        let platform = format!("--platform={os}/wasm");
        let is_old = self.daemon().series().is_old() && os.starts_with("wasi");
        let platform = if is_old { &platform } else { "--all-platforms" };
        let import = |flags: &[&str]| self.ctr(&[&["images", "import"], flags, &[&tar.to_string_lossy()]].concat());
        // From 2.3 on the daemon unpacks no layers of other platforms. `ctr` itself does, but refuses an index without this machine's
        // platform.
        let is_unpacked =
            matches!(self.daemon().series(), Series::Further(_)) && import(&[platform, "--local"]).status.success();
        if !is_unpacked {
            import(&[platform]).success();
        }
    }

    /// Returns an image record.
    ///
    /// # Panics
    /// If containerd answers with an error other than `NotFound`.
    pub async fn image(&self, name: &str) -> Option<ImageRecord> {
        let request = GetImageRequest { name: name.to_owned() };
        let answer = found(self.client().images().get(self.request(request)).await);
        answer.and_then(|answer| answer.into_inner().image)
    }

    /// Removes an image and waits until the blobs that only it kept are collected.
    ///
    /// # Panics
    /// If containerd refuses.
    pub async fn remove_image(&self, name: &str) {
        let request = DeleteImageRequest { name: name.to_owned(), sync: true, ..Default::default() };
        self.client().images().delete(self.request(request)).await.expect("an image can be removed");
    }

    /// Makes containerd collect garbage, and waits for that: makes and removes an unrelated image.
    ///
    /// # Panics
    /// If containerd refuses.
    pub async fn collect_garbage(&self) {
        let target = Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            digest: format!("sha256:{:064x}", 1),
            size: 1,
            ..Default::default()
        };
        let image = ImageRecord { name: UNRELATED.to_owned(), target: Some(target), ..Default::default() };
        let request = CreateImageRequest { image: Some(image), ..Default::default() };
        self.client().images().create(self.request(request)).await.expect("an image can be made");
        self.remove_image(UNRELATED).await;
    }

    // --- Content ----------------------------------------------------------------------------------------------------

    /// Returns containerd's information about a blob.
    ///
    /// # Panics
    /// If containerd answers with an error other than `NotFound`.
    pub async fn blob(&self, digest: &str) -> Option<Info> {
        let request = InfoRequest { digest: digest.to_owned() };
        found(self.client().content().info(self.request(request)).await).and_then(|answer| answer.into_inner().info)
    }

    /// Returns the labels of an existing blob.
    ///
    /// # Panics
    /// If the blob does not exist.
    pub async fn labels(&self, digest: &str) -> BTreeMap<String, String> {
        let info = self.blob(digest).await.unwrap_or_else(|| panic!("blob {digest} is not there"));
        info.labels.into_iter().collect()
    }

    /// Sets one label of a blob; an empty value removes it.
    ///
    /// # Panics
    /// If containerd refuses.
    pub async fn set_label(&self, digest: &str, key: &str, value: &str) {
        let labels = HashMap::from([(key.to_owned(), value.to_owned())]);
        let request = UpdateContentRequest {
            info: Some(Info { digest: digest.to_owned(), labels, ..Default::default() }),
            update_mask: Some(prost_types::FieldMask { paths: vec![format!("labels.{key}")] }),
        };
        self.client().content().update(self.request(request)).await.expect("a label can be set");
    }

    /// Deletes a blob, even if other objects refer to it.
    ///
    /// # Panics
    /// If containerd refuses.
    pub async fn delete_blob(&self, digest: &str) {
        let request = DeleteContentRequest { digest: digest.to_owned() };
        self.client().content().delete(self.request(request)).await.expect("a blob can be deleted");
    }

    // --- The end ----------------------------------------------------------------------------------------------------

    /// Removes the namespace itself, and its empty cgroups. These would stay, as with runc, and each would slow down programs that look
    /// through all cgroups.
    pub async fn remove(&self) {
        let request = DeleteNamespaceRequest { name: self.name().to_owned() };
        // A blob may be left that the next collection takes; then the namespace stays.
        let _ = self.client().namespaces().delete(request).await;
        leaks::remove_cgroups(self.name());
    }

    /// Ends and deletes every task and container, and removes every image, in so far as that succeeds.
    pub async fn clear(&self) {
        self.clear_tasks().await;
        let containers = self.client().containers().list(self.request(ListContainersRequest::default())).await;
        for container in containers.map(|answer| answer.into_inner().containers).unwrap_or_default() {
            let request = DeleteContainerRequest { id: container.id };
            // The check for leaks finds objects that cannot be removed.
            let _ = self.client().containers().delete(self.request(request)).await;
        }
        let images = self.client().images().list(self.request(ListImagesRequest::default())).await;
        let mut images = images.map(|answer| answer.into_inner().images).unwrap_or_default();
        while let Some(image) = images.pop() {
            // One collection is enough, after the last one.
            let request = DeleteImageRequest { name: image.name, sync: images.is_empty(), ..Default::default() };
            let _ = self.client().images().delete(self.request(request)).await;
        }
    }

    /// Returns the pid of a container's task.
    ///
    /// # Panics
    /// If it has none.
    pub async fn pid_of(&self, id: &str) -> u32 {
        let tasks = self.client().tasks().list(self.request(ListTasksRequest::default())).await;
        let tasks = tasks.expect("containerd answers").into_inner().tasks;
        tasks.iter().find(|task| task.id == id).unwrap_or_else(|| panic!("{id} has no task")).pid
    }

    async fn clear_tasks(&self) {
        let tasks = self.client().tasks().list(self.request(ListTasksRequest::default())).await;
        for task in tasks.map(|answer| answer.into_inner().tasks).unwrap_or_default() {
            let container_id = task.id;
            let mut client = self.client().tasks();
            let wait = WaitRequest { container_id: container_id.clone(), exec_id: String::new() };
            let kill = KillRequest { container_id: container_id.clone(), signal: 9, all: true, ..Default::default() };
            // A task that never ran or has ended cannot be killed, but is deleted all the same.
            if client.kill(self.request(kill)).await.is_ok() {
                let _ = tokio::time::timeout(Duration::from_secs(5), client.wait(self.request(wait))).await;
            }
            let _ = client.delete(self.request(DeleteTaskRequest { container_id })).await;
        }
    }

    /// Waits until no container of this namespace, and no write to its content store, has left anything behind.
    ///
    /// # Panics
    /// With the list of leaks, if they stay.
    pub async fn assert_clean(&self) {
        crate::eventually("a clean namespace", Duration::from_secs(10), async || {
            let left = leaks::of_namespace(self).await;
            if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
        })
        .await;
    }
}

/// Turns `NotFound` into `None`.
fn found<T>(answer: Result<T, Status>) -> Option<T> {
    match answer {
        Ok(value) => Some(value),
        Err(status) if status.code() == Code::NotFound => None,
        Err(status) => panic!("containerd answers with an error: {status}"),
    }
}
