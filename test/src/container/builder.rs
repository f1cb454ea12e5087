//! Describes a container and creates it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::snapshots::PrepareSnapshotRequest;
use containerd_client::services::v1::{Container as ContainerRecord, CreateContainerRequest, CreateTaskRequest};
use containerd_client::types::Mount;
use prost_types::Any;
use serde_json::{Value, json};
use tonic::Status;

use super::streams::Wanted;
use super::{Container, Exited, SNAPSHOTTER, remove};
use crate::image::Config;
use crate::namespace::Namespace;
use crate::process;
use crate::spec::{self, Spec, merge};

/// containerd's message for the options of a runtime other than runc.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RuntimeOptions {
    /// Path of a file with options.
    #[prost(string, tag = "2")]
    pub config_path: String,
    /// A document with options, if there is no file.
    #[prost(bytes = "vec", tag = "3")]
    pub config_body: Vec<u8>,
}

/// The description of a container.
pub struct Builder {
    pub(super) namespace: Namespace,
    image: String,
    pub(super) id: Option<String>,
    runtime: String,
    args: Option<Vec<String>>,
    env: Vec<String>,
    mounts: Vec<Value>,
    changes: Vec<Value>,
    pub(super) streams: Wanted,
    annotations: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    extensions: BTreeMap<String, Any>,
    options: Option<Any>,
    task_options: Option<Any>,
    snapshot_labels: Vec<(&'static str, String)>,
    first_user: Option<u32>,
}

impl Builder {
    pub(crate) fn new(namespace: Namespace, image: &str) -> Self {
        let runtime = namespace.runtime();
        Self {
            namespace,
            image: image.to_owned(),
            id: None,
            runtime,
            args: None,
            env: Vec::new(),
            mounts: Vec::new(),
            changes: Vec::new(),
            streams: Wanted::default(),
            annotations: BTreeMap::new(),
            labels: BTreeMap::new(),
            extensions: BTreeMap::new(),
            options: None,
            task_options: None,
            snapshot_labels: Vec::new(),
            first_user: None,
        }
    }

    /// Sets an id, instead of a generated one.
    pub fn id(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// Sets another runtime than the wasmtime shim.
    pub fn runtime(mut self, runtime: &str) -> Self {
        runtime.clone_into(&mut self.runtime);
        self
    }

    /// Sets the arguments after the image's entrypoint.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args = Some(args.iter().map(|&arg| arg.to_owned()).collect());
        self
    }

    /// Adds a variable `NAME=VALUE` to the image's environment.
    pub fn env(mut self, variable: &str) -> Self {
        self.env.push(variable.to_owned());
        self
    }

    /// Adds a mount in the form of the runtime specification.
    pub fn mount(mut self, mount: Value) -> Self {
        self.mounts.push(mount);
        self
    }

    /// Adds an annotation.
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Adds a label to its record.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Adds a document as an extension of its record, as CRI does.
    pub fn extension(mut self, name: &str, value: &Value) -> Self {
        self.extensions.insert(name.to_owned(), spec::pack("Extension", value));
        self
    }

    /// Sets the options of its runtime, in TOML, as CRI does with containerd's configuration.
    pub fn options(self, toml: &str) -> Self {
        self.packed_options(
            "runtimeoptions.v1.Options",
            RuntimeOptions { config_body: toml.into(), ..Default::default() },
        )
    }

    /// Sets a message as the options of its runtime.
    pub fn packed_options(mut self, type_url: &str, message: impl prost::Message) -> Self {
        self.options = Some(Any { type_url: type_url.to_owned(), value: message.encode_to_vec() });
        self
    }

    /// Sets a message as the options of its task, which replace those of its runtime.
    pub fn task_options(mut self, type_url: &str, message: Vec<u8>) -> Self {
        self.task_options = Some(Any { type_url: type_url.to_owned(), value: message });
        self
    }

    /// Adds a user namespace, as containerd's clients do. The ids from 0 to `size` are the node's ids from `first` on. The same holds for
    /// the owners of the image's files. The snapshotter maps them or, if containerd 1.7's cannot do it, this changes all files.
    pub fn users(mut self, first: u32, size: u32) -> Self {
        let map = format!("0:{first}:{size}");
        self.first_user = Some(first);
        self.snapshot_labels.push(("containerd.io/snapshot/uidmapping", map.clone()));
        self.snapshot_labels.push(("containerd.io/snapshot/gidmapping", map));
        let maps = json!([{ "containerID": 0, "hostID": first, "size": size }]);
        let kinds = ["pid", "ipc", "uts", "mount", "network", "user"].map(|kind| json!({ "type": kind }));
        self.change(json!({ "linux": { "uidMappings": maps, "gidMappings": maps, "namespaces": kinds } }))
    }

    /// Adds a standard input, for [`Container::write`].
    pub fn stdin(mut self) -> Self {
        self.streams.stdin = true;
        self
    }

    /// Adds a terminal, which replaces the three streams.
    pub fn terminal(mut self) -> Self {
        self.streams.terminal = true;
        self.change(json!({ "process": { "terminal": true } }))
    }

    /// Sets the URI of the standard input.
    pub fn input(mut self, uri: &str) -> Self {
        self.streams.input = Some(uri.to_owned());
        self
    }

    /// Sets the URI of both outputs; the test cannot read them then.
    pub fn output(mut self, uri: &str) -> Self {
        self.streams.output = Some(uri.to_owned());
        self
    }

    /// Changes the runtime specification: objects are merged, all other values replaced.
    pub fn change(mut self, change: Value) -> Self {
        self.changes.push(change);
        self
    }

    /// Creates container and task, and runs it to its end.
    ///
    /// # Panics
    /// If it cannot be created or started, or does not end.
    pub async fn run(self) -> Exited {
        let mut container = self.create().await;
        container.start().await;
        container.finish().await
    }

    /// Creates container and task.
    ///
    /// # Panics
    /// If containerd or the shim refuses.
    pub async fn create(self) -> Container {
        let image = self.image.clone();
        self.try_create().await.unwrap_or_else(|status| panic!("cannot create a container of {image}: {status}"))
    }

    /// Creates container and task.
    ///
    /// # Errors
    /// The shim's error.
    ///
    /// # Panics
    /// If containerd refuses the container or its snapshot.
    pub async fn try_create(self) -> Result<Container, Status> {
        let id = self.id.clone().unwrap_or_else(|| self.namespace.fresh_id("container"));
        let (mounts, mut spec) = self.prepare(&id).await;
        // A container with the id of an earlier one has separate streams.
        let folder = self.namespace.folder().join(self.namespace.fresh_id("streams"));
        let (streams, stdin, stdout, stderr) = self.streams.make(&folder);
        let request = CreateTaskRequest {
            container_id: id.clone(),
            rootfs: mounts,
            terminal: self.streams.terminal,
            stdin,
            stdout,
            stderr,
            options: self.task_options.clone(),
            ..Default::default()
        };
        let answer = self.namespace.client().tasks().create(self.namespace.request(request)).await;
        match answer {
            Ok(answer) => {
                let pid = answer.into_inner().pid;
                Ok(Container::new(self.namespace, id, String::new(), pid, spec["process"].take(), streams))
            }
            Err(status) => {
                remove(&self.namespace, &id).await;
                Err(status)
            }
        }
    }

    /// Creates the record and its snapshot, and returns the mounts and the specification. A lease keeps the snapshot until the record
    /// does.
    pub(super) async fn prepare(&self, id: &str) -> (Vec<Mount>, Value) {
        let namespace = &self.namespace;
        let config = Config::of(namespace, &self.image).await;
        let lease = namespace.lease().await;
        let request = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: id.to_owned(),
            parent: config.chain_id(),
            labels: self.snapshot_labels.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        };
        let mounts = namespace.client().snapshots().prepare(namespace.leased(&lease, request)).await;
        let mounts = mounts.expect("a snapshot of the image can be prepared").into_inner().mounts;
        if let Some(first) = self.first_user
            && !mounts.iter().flat_map(|mount| &mount.options).any(|option| option.starts_with("uidmap="))
        {
            remap(&mounts, &namespace.folder().join(namespace.fresh_id("remapped")), first);
        }
        let mut spec = self.spec(id, &config).json();
        self.changes.iter().for_each(|change| merge(&mut spec, change));
        let record = ContainerRecord {
            id: id.to_owned(),
            image: self.image.clone(),
            runtime: Some(Runtime { name: self.runtime.clone(), options: self.options.clone() }),
            spec: Some(spec::pack("Spec", &spec)),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: id.to_owned(),
            labels: self.labels.clone().into_iter().collect(),
            extensions: self.extensions.clone().into_iter().collect(),
            ..Default::default()
        };
        let request = CreateContainerRequest { container: Some(record) };
        let answer = namespace.client().containers().create(namespace.leased(&lease, request)).await;
        answer.expect("a container can be made");
        namespace.release(lease).await;
        (mounts, spec)
    }

    fn spec(&self, id: &str, config: &Config) -> Spec {
        let args = self.args.as_ref().unwrap_or(&config.cmd);
        Spec {
            args: config.entrypoint.iter().chain(args).cloned().collect(),
            env: config.env.iter().chain(&self.env).cloned().collect(),
            cwd: config.working_dir.clone(),
            cgroup: format!("/{}/{id}", self.namespace.name()),
            hostname: id.to_owned(),
            mounts: self.mounts.clone(),
            annotations: self.annotations.clone(),
        }
    }
}

/// Changes the owners of all files of a snapshot, as containerd's client does.
fn remap(mounts: &[Mount], folder: &Path, first: u32) {
    let [mount] = mounts else { panic!("a snapshot is one mount: {mounts:?}") };
    if mount.r#type == "bind" {
        return shift(Path::new(&mount.source), first);
    }
    fs::create_dir(folder).expect("the folder is ours");
    let mut command = Command::new("mount");
    command.args(["-t", &mount.r#type, "-o", &mount.options.join(","), &mount.source]).arg(folder);
    process::run(&mut command, Duration::from_secs(20)).success();
    shift(folder, first);
    process::run(Command::new("umount").arg(folder), Duration::from_secs(20)).success();
}

fn shift(path: &Path, first: u32) {
    let metadata = fs::symlink_metadata(path).expect("it is there");
    lchown(path, Some(metadata.uid() + first), Some(metadata.gid() + first)).expect("it is ours");
    if metadata.is_dir() {
        fs::read_dir(path).expect("it is ours").flatten().for_each(|entry| shift(&entry.path(), first));
    }
}
