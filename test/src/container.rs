//! Containers and their tasks over containerd's own API, with the standard streams in fifos.

mod builder;
mod control;
mod direct;
mod exec;
mod streams;

pub use builder::{Builder, RuntimeOptions};
pub use direct::Bundle;
pub use exec::ExecBuilder;
use streams::Streams;

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use containerd_client::services::v1::snapshots::RemoveSnapshotRequest;
use containerd_client::services::v1::{
    CloseIoRequest, DeleteContainerRequest, DeleteResponse, DeleteTaskRequest, KillRequest, ListPidsRequest,
    MetricsRequest, StartRequest, WaitRequest, WaitResponse,
};
use containerd_client::types::Metric;
use containerd_client::types::v1::{Process, ProcessInfo};
use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::calls::{self, Tracer};
use crate::eventually::eventually;
use crate::namespace::Namespace;
use crate::stdio::Stream;

/// Time limit for a container to end by itself, without the compile of a big module.
const LIMIT: Duration = Duration::from_secs(30);
const SNAPSHOTTER: &str = "overlayfs";

/// A container with a task, created and perhaps started; or an exec process of one, see [`Container::exec`].
pub struct Container {
    namespace: Namespace,
    id: String,
    /// Empty for the container's first process.
    exec_id: String,
    pid: u32,
    /// The process in its specification.
    process: Value,
    stdin: Option<File>,
    stdout: Stream,
    stderr: Stream,
    waiter: Option<JoinHandle<Result<WaitResponse, Status>>>,
}

/// The result of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exited {
    /// Exit status as containerd reports it.
    pub code: u32,
    /// The whole standard output.
    pub stdout: String,
    /// The whole standard error.
    pub stderr: String,
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

    /// Returns the pid that the shim has reported.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns its bundle.
    pub fn bundle(&self) -> PathBuf {
        let state = self.namespace.daemon().folder().join("state/io.containerd.runtime.v2.task");
        state.join(self.namespace.name()).join(&self.id)
    }

    /// Starts the task; from then on its end is waited for.
    ///
    /// # Panics
    /// If the shim refuses.
    pub async fn start(&mut self) {
        self.try_start().await.unwrap_or_else(|status| panic!("cannot start {}: {status}", self.id));
    }

    /// Starts the task; from then on its end is waited for.
    ///
    /// # Errors
    /// The shim's error.
    pub async fn try_start(&mut self) -> Result<(), Status> {
        self.wait_again();
        if let Some(folder) = std::env::var_os(calls::VARIABLE)
            && self.exec_id.is_empty()
        {
            let file = PathBuf::from(folder).join(format!("{}.{}", self.namespace.engine(), self.pid));
            drop(Tracer::attach(self.pid, &file));
        }
        let request = StartRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone() };
        self.pid = self.namespace.client().tasks().start(self.namespace.request(request)).await?.into_inner().pid;
        Ok(())
    }

    /// Starts to wait for the end of the task: after its start, and after a restart of containerd has ended the wait.
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
    /// The shim's error.
    pub async fn kill(&self, signal: Signal) -> Result<(), Status> {
        self.kill_with(signal.as_raw().cast_unsigned(), false).await
    }

    /// Sends a signal by number; with `all`, to all processes of the container.
    ///
    /// # Errors
    /// The shim's error.
    pub async fn kill_with(&self, signal: u32, all: bool) -> Result<(), Status> {
        let request = KillRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone(), signal, all };
        self.namespace.client().tasks().kill(self.namespace.request(request)).await?;
        Ok(())
    }

    /// Returns containerd's description of the task's process.
    ///
    /// # Errors
    /// containerd's or the shim's error.
    pub async fn state(&self) -> Result<Process, Status> {
        self.state_of(&self.exec_id).await
    }

    /// Lists the processes in the container.
    ///
    /// # Errors
    /// The shim's error.
    pub async fn pids(&self) -> Result<Vec<ProcessInfo>, Status> {
        let request = ListPidsRequest { container_id: self.id.clone() };
        let answer = self.namespace.client().tasks().list_pids(self.namespace.request(request)).await?;
        Ok(answer.into_inner().processes)
    }

    /// Returns the container's metrics.
    ///
    /// # Errors
    /// The shim's error.
    pub async fn metrics(&self) -> Result<Vec<Metric>, Status> {
        let request = MetricsRequest { filters: vec![format!("id=={}", self.id)] };
        let answer = self.namespace.client().tasks().metrics(self.namespace.request(request)).await?;
        Ok(answer.into_inner().metrics)
    }

    /// Writes to the container's standard input.
    ///
    /// # Panics
    /// If it has none, or no process reads and the pipe is full.
    pub fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("the container was made with standard input");
        stdin.write_all(text.as_bytes()).expect("the pipe has room");
    }

    /// Ends the container's standard input.
    ///
    /// # Errors
    /// The shim's error.
    pub async fn close_stdin(&mut self) -> Result<(), Status> {
        self.stdin = None;
        self.end_stdin_by_call().await
    }

    /// Closes this side of the container's standard input, without a call.
    pub fn drop_stdin(&mut self) {
        self.stdin = None;
    }

    /// Calls `CloseIO`, and leaves the fifo as it is.
    ///
    /// # Errors
    /// The shim's error.
    pub async fn end_stdin_by_call(&self) -> Result<(), Status> {
        let request = CloseIoRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone(), stdin: true };
        self.namespace.client().tasks().close_io(self.namespace.request(request)).await?;
        Ok(())
    }

    /// Returns the standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Returns the standard error so far.
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

    /// Deletes the task, and keeps the container.
    ///
    /// # Errors
    /// The shim's error.
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

    /// Deletes task and container as far as possible; retries until the task is gone, with a time limit.
    pub async fn try_delete(self) {
        for _ in 0..100 {
            match self.delete_task().await {
                Err(status) if status.code() != tonic::Code::NotFound => {
                    // The task may still run.
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
    // Without the container nothing keeps the snapshot: containerd may have collected it already.
    let _ = namespace.client().snapshots().remove(namespace.request(request)).await;
}
