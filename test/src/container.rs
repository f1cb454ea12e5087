//! Containers and their tasks over containerd's own API, with the standard streams in fifos.

mod control;
mod direct;
mod exec;
mod streams;

pub use exec::ExecBuilder;
use streams::{Streams, Wanted};

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::snapshots::{PrepareSnapshotRequest, RemoveSnapshotRequest};
use containerd_client::services::v1::{
    CloseIoRequest, Container as ContainerRecord, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest,
    DeleteResponse, DeleteTaskRequest, KillRequest, ListPidsRequest, MetricsRequest, StartRequest, WaitRequest,
    WaitResponse,
};
use containerd_client::types::v1::{Process, ProcessInfo};
use containerd_client::types::{Metric, Mount};
use prost_types::Any;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::Status;

use crate::eventually::eventually;
use crate::image::Config;
use crate::namespace::Namespace;
use crate::spec::{self, Spec, merge};
use crate::stdio::Stream;

/// How long a container may take to end by itself: the compile of a big module is not in it.
const LIMIT: Duration = Duration::from_secs(30);
const SNAPSHOTTER: &str = "overlayfs";

/// containerd's message for the options of a runtime other than runc.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RuntimeOptions {
    /// Path of a file.
    #[prost(string, tag = "2")]
    pub config_path: String,
    /// A document, if there is no file.
    #[prost(bytes = "vec", tag = "3")]
    pub config_body: Vec<u8>,
}

/// Describes a container that is to be made.
pub struct Builder {
    namespace: Namespace,
    image: String,
    runtime: String,
    args: Option<Vec<String>>,
    env: Vec<String>,
    mounts: Vec<Value>,
    changes: Vec<Value>,
    streams: Wanted,
    annotations: BTreeMap<String, String>,
    options: Option<Any>,
}

/// A container with a task, created and perhaps started; or another process of one, see [`Container::exec`].
pub struct Container {
    namespace: Namespace,
    id: String,
    /// Empty for the container's first process.
    exec_id: String,
    pid: u32,
    /// The process as its specification has it.
    process: Value,
    stdin: Option<File>,
    stdout: Stream,
    stderr: Stream,
    waiter: Option<JoinHandle<Result<WaitResponse, Status>>>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exited {
    /// Exit status as containerd reports it.
    pub code: u32,
    /// Everything on standard output.
    pub stdout: String,
    /// Everything on standard error.
    pub stderr: String,
}

impl Builder {
    pub(crate) fn new(namespace: Namespace, image: &str) -> Self {
        let runtime = namespace.runtime();
        Self {
            namespace,
            image: image.to_owned(),
            runtime,
            args: None,
            env: Vec::new(),
            mounts: Vec::new(),
            changes: Vec::new(),
            streams: Wanted::default(),
            annotations: BTreeMap::new(),
            options: None,
        }
    }

    /// Takes another runtime than the wasmtime shim.
    pub fn runtime(mut self, runtime: &str) -> Self {
        runtime.clone_into(&mut self.runtime);
        self
    }

    /// Sets the arguments behind the image's entrypoint.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args = Some(args.iter().map(|&arg| arg.to_owned()).collect());
        self
    }

    /// Adds a variable `NAME=VALUE` to the image's environment.
    pub fn env(mut self, variable: &str) -> Self {
        self.env.push(variable.to_owned());
        self
    }

    /// Adds a mount as the runtime specification has it.
    pub fn mount(mut self, mount: Value) -> Self {
        self.mounts.push(mount);
        self
    }

    /// Adds an annotation.
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sets the options of its runtime, in TOML, as CRI does with what stands in containerd's configuration.
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

    /// Gives it a standard input, for [`Container::write`].
    pub fn stdin(mut self) -> Self {
        self.streams.stdin = true;
        self
    }

    /// Gives it a terminal, which needs no further streams.
    pub fn terminal(mut self) -> Self {
        self.streams.terminal = true;
        self.change(json!({ "process": { "terminal": true } }))
    }

    /// Sends both outputs to where a URI says; they cannot be read then.
    pub fn output(mut self, uri: &str) -> Self {
        self.streams.output = Some(uri.to_owned());
        self
    }

    /// Changes the runtime specification: objects are merged, all other values replaced.
    pub fn change(mut self, change: Value) -> Self {
        self.changes.push(change);
        self
    }

    /// Makes container and task, and runs it to its end.
    ///
    /// # Panics
    /// If it cannot be created or started, or does not end.
    pub async fn run(self) -> Exited {
        let mut container = self.create().await;
        container.start().await;
        container.finish().await
    }

    /// Makes container and task.
    ///
    /// # Panics
    /// If containerd or the shim refuses.
    pub async fn create(self) -> Container {
        let image = self.image.clone();
        self.try_create().await.unwrap_or_else(|status| panic!("cannot create a container of {image}: {status}"))
    }

    /// Makes container and task.
    ///
    /// # Errors
    /// What the shim answers.
    ///
    /// # Panics
    /// If containerd refuses the container or its snapshot.
    pub async fn try_create(self) -> Result<Container, Status> {
        let id = self.namespace.fresh_id("container");
        let (mounts, mut spec) = self.prepare(&id).await;
        let folder = self.namespace.folder().join(&id);
        let (streams, stdin, stdout, stderr) = self.streams.make(&folder);
        let request = CreateTaskRequest {
            container_id: id.clone(),
            rootfs: mounts,
            terminal: self.streams.terminal,
            stdin,
            stdout,
            stderr,
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

    /// Makes the record and its snapshot, and returns the mounts and the specification, under a lease until the record keeps the snapshot.
    async fn prepare(&self, id: &str) -> (Vec<Mount>, Value) {
        let namespace = &self.namespace;
        let config = Config::of(namespace, &self.image).await;
        let lease = namespace.lease().await;
        let request = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: id.to_owned(),
            parent: config.chain_id(),
            ..Default::default()
        };
        let mounts = namespace.client().snapshots().prepare(namespace.leased(&lease, request)).await;
        let mounts = mounts.expect("a snapshot of the image can be prepared").into_inner().mounts;
        let mut spec = self.spec(id, &config).json();
        self.changes.iter().for_each(|change| merge(&mut spec, change));
        let record = ContainerRecord {
            id: id.to_owned(),
            image: self.image.clone(),
            runtime: Some(Runtime { name: self.runtime.clone(), options: self.options.clone() }),
            spec: Some(spec::pack("Spec", &spec)),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: id.to_owned(),
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

impl Container {
    fn new(
        namespace: Namespace,
        id: String,
        exec_id: String,
        pid: u32,
        process: Value,
        Streams { stdin, stdout, stderr }: Streams,
    ) -> Self {
        Self { namespace, id, exec_id, pid, process, stdin, stdout, stderr, waiter: None }
    }

    /// Returns its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the process id that the shim gave.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns its bundle.
    pub fn bundle(&self) -> PathBuf {
        let state = self.namespace.daemon().folder().join("state/io.containerd.runtime.v2.task");
        state.join(self.namespace.name()).join(&self.id)
    }

    /// Starts the task; from then on somebody waits for its end.
    ///
    /// # Panics
    /// If the shim refuses.
    pub async fn start(&mut self) {
        self.try_start().await.unwrap_or_else(|status| panic!("cannot start {}: {status}", self.id));
    }

    /// Starts the task; from then on somebody waits for its end.
    ///
    /// # Errors
    /// What the shim answers.
    pub async fn try_start(&mut self) -> Result<(), Status> {
        self.wait_again();
        let request = StartRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone() };
        self.pid = self.namespace.client().tasks().start(self.namespace.request(request)).await?.into_inner().pid;
        Ok(())
    }

    /// Begins to wait for the end of the task: when it is started, and when a restart of containerd has ended the wait.
    pub fn wait_again(&mut self) {
        let request = WaitRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone() };
        let (mut client, request) = (self.namespace.client().tasks(), self.namespace.request(request));
        self.waiter = Some(tokio::spawn(async move { Ok(client.wait(request).await?.into_inner()) }));
    }

    /// Waits for the end of the task and returns its exit status.
    ///
    /// # Panics
    /// If it was not started, or does not end in time.
    pub async fn wait(&mut self) -> u32 {
        let waiter = self.waiter.take().expect("only a started container ends");
        let answer = tokio::time::timeout(LIMIT, waiter).await;
        let answer = answer.unwrap_or_else(|_| {
            let (out, err) = (self.stdout(), self.stderr());
            panic!("{} had not ended after {} s; it printed {out:?} and {err:?}", self.id, LIMIT.as_secs())
        });
        answer.expect("the waiter does not panic").unwrap_or_else(|status| panic!("cannot wait: {status}")).exit_status
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// What the shim answers.
    pub async fn kill(&self, signal: Signal) -> Result<(), Status> {
        self.kill_with(signal.as_raw().cast_unsigned(), false).await
    }

    /// Sends a signal by number, to all processes of the container if so wanted.
    ///
    /// # Errors
    /// What the shim answers.
    pub async fn kill_with(&self, signal: u32, all: bool) -> Result<(), Status> {
        let request = KillRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone(), signal, all };
        self.namespace.client().tasks().kill(self.namespace.request(request)).await?;
        Ok(())
    }

    /// Returns what containerd knows of the task's process.
    ///
    /// # Errors
    /// What containerd or the shim answers.
    pub async fn state(&self) -> Result<Process, Status> {
        self.state_of(&self.exec_id).await
    }

    /// Lists the processes in the container.
    ///
    /// # Errors
    /// What the shim answers.
    pub async fn pids(&self) -> Result<Vec<ProcessInfo>, Status> {
        let request = ListPidsRequest { container_id: self.id.clone() };
        let answer = self.namespace.client().tasks().list_pids(self.namespace.request(request)).await?;
        Ok(answer.into_inner().processes)
    }

    /// Returns the container's figures.
    ///
    /// # Errors
    /// What the shim answers.
    pub async fn metrics(&self) -> Result<Vec<Metric>, Status> {
        let request = MetricsRequest { filters: vec![format!("id=={}", self.id)] };
        let answer = self.namespace.client().tasks().metrics(self.namespace.request(request)).await?;
        Ok(answer.into_inner().metrics)
    }

    /// Writes on the container's standard input.
    ///
    /// # Panics
    /// If it has none, or nobody reads and the pipe is full.
    pub fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("the container was made with standard input");
        stdin.write_all(text.as_bytes()).expect("the pipe has room");
    }

    /// Ends the container's standard input.
    ///
    /// # Errors
    /// What the shim answers.
    pub async fn close_stdin(&mut self) -> Result<(), Status> {
        self.stdin = None;
        self.end_stdin_by_call().await
    }

    /// Closes this side of the container's standard input, and tells nobody.
    pub fn drop_stdin(&mut self) {
        self.stdin = None;
    }

    /// Says that no more input will come, and leaves the fifo as it is.
    ///
    /// # Errors
    /// What the shim answers.
    pub async fn end_stdin_by_call(&self) -> Result<(), Status> {
        let request = CloseIoRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone(), stdin: true };
        self.namespace.client().tasks().close_io(self.namespace.request(request)).await?;
        Ok(())
    }

    /// Returns what was printed on standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Returns what was printed on standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until standard output contains `part`.
    ///
    /// # Panics
    /// If it does not in time.
    pub async fn prints(&self, part: &str) {
        eventually(&format!("{part:?} on standard output"), LIMIT, async || {
            let (out, err) = (self.stdout(), self.stderr());
            if out.contains(part) { Ok(()) } else { Err(format!("{out:?}, and on standard error {err:?}")) }
        })
        .await;
    }

    /// Deletes the task, leaves the container.
    ///
    /// # Errors
    /// What the shim answers.
    pub async fn delete_task(&self) -> Result<DeleteResponse, Status> {
        if !self.exec_id.is_empty() {
            return self.delete_exec().await;
        }
        let request = DeleteTaskRequest { container_id: self.id.clone() };
        Ok(self.namespace.client().tasks().delete(self.namespace.request(request)).await?.into_inner())
    }

    /// Waits for the end, then deletes task and container.
    ///
    /// # Panics
    /// If it does not end or cannot be deleted, or its exit status changes meanwhile.
    pub async fn finish(mut self) -> Exited {
        let code = self.wait().await;
        let deleted = self.delete_task().await.unwrap_or_else(|status| panic!("cannot delete {}: {status}", self.id));
        assert_eq!(deleted.exit_status, code, "Wait and Delete report the same exit status");
        self.remove().await;
        Exited { code, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Deletes the task, which has ended or never started, and the container.
    ///
    /// # Panics
    /// If it cannot be deleted.
    pub async fn delete(self) -> DeleteResponse {
        let deleted = self.delete_task().await.unwrap_or_else(|status| panic!("cannot delete {}: {status}", self.id));
        self.remove().await;
        deleted
    }

    /// Deletes task and container as far as that is possible: until the task is gone, but not for ever.
    pub async fn try_delete(self) {
        for _ in 0..100 {
            match self.delete_task().await {
                Err(status) if status.code() != tonic::Code::NotFound => {
                    // It may run still.
                    let _ = self.kill_with(9, true).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                _ => break,
            }
        }
        let request = DeleteContainerRequest { id: self.id.clone() };
        let _ = self.namespace.client().containers().delete(self.namespace.request(request)).await;
    }

    async fn remove(&self) {
        if self.exec_id.is_empty() {
            remove(&self.namespace, &self.id).await;
        }
    }
}

/// Removes a container's record and snapshot.
async fn remove(namespace: &Namespace, id: &str) {
    let request = DeleteContainerRequest { id: id.to_owned() };
    namespace.client().containers().delete(namespace.request(request)).await.expect("a container can be deleted");
    let request = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: id.to_owned() };
    // Without the container nothing keeps the snapshot: a collection may have been faster.
    let _ = namespace.client().snapshots().remove(namespace.request(request)).await;
}
