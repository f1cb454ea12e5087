//! Exec processes of a running container.

use containerd_client::services::v1::{DeleteProcessRequest, DeleteResponse, ExecProcessRequest, GetRequest};
use containerd_client::types::v1::Process;
use serde_json::{Value, json};
use tonic::Status;

use super::streams::Wanted;
use super::{Container, Exited};
use crate::spec::{self, merge};

/// Describes an exec process.
pub struct ExecBuilder<'a> {
    container: &'a Container,
    process: Value,
    streams: Wanted,
}

impl Container {
    /// Starts the description of an exec process: like the container's own process, with other arguments.
    pub fn exec(&self, args: &[&str]) -> ExecBuilder<'_> {
        let mut process = self.process.clone();
        merge(&mut process, &json!({ "args": args, "terminal": false }));
        ExecBuilder { container: self, process, streams: Wanted::default() }
    }

    pub(super) async fn delete_exec(&self) -> Result<DeleteResponse, Status> {
        let request = DeleteProcessRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone() };
        Ok(self.namespace.client().tasks().delete_process(self.namespace.request(request)).await?.into_inner())
    }

    /// Returns containerd's description of one of the container's processes.
    ///
    /// # Errors
    /// containerd's or the shim's error.
    pub async fn state_of(&self, exec_id: &str) -> Result<Process, Status> {
        let request = GetRequest { container_id: self.id.clone(), exec_id: exec_id.to_owned() };
        let answer = self.namespace.client().tasks().get(self.namespace.request(request)).await?;
        answer.into_inner().process.ok_or_else(|| Status::internal("an answer without a process"))
    }

    /// Returns the exec id; empty for a container's first process.
    pub fn exec_id(&self) -> &str {
        &self.exec_id
    }
}

impl ExecBuilder<'_> {
    /// Gives it a standard input, for [`Container::write`].
    pub fn stdin(mut self) -> Self {
        self.streams.stdin = true;
        self
    }

    /// Gives it a terminal.
    pub fn terminal(mut self) -> Self {
        self.streams.terminal = true;
        self.change(json!({ "terminal": true }))
    }

    /// Changes the process: objects are merged, all other values replaced.
    pub fn change(mut self, change: Value) -> Self {
        merge(&mut self.process, &change);
        self
    }

    /// Executes it and waits for its end.
    ///
    /// # Panics
    /// If it cannot be executed, or does not end.
    pub async fn run(self) -> Exited {
        let mut process = self.create().await;
        process.start().await;
        process.finish().await
    }

    /// Registers the process, without starting it.
    ///
    /// # Panics
    /// If the shim refuses.
    pub async fn create(self) -> Container {
        self.try_create().await.unwrap_or_else(|status| panic!("cannot add a process: {status}"))
    }

    /// Registers the process, without starting it.
    ///
    /// # Errors
    /// The shim's error.
    pub async fn try_create(self) -> Result<Container, Status> {
        let exec_id = self.container.namespace.fresh_id("exec");
        self.create_as(&exec_id).await
    }

    /// Registers the process with the exec id `exec_id`.
    ///
    /// # Errors
    /// The shim's error.
    pub async fn create_as(self, exec_id: &str) -> Result<Container, Status> {
        let namespace = self.container.namespace.clone();
        let exec_id = exec_id.to_owned();
        let folder = namespace.folder().join(namespace.fresh_id("streams"));
        let (streams, stdin, stdout, stderr) = self.streams.make(&folder);
        let request = ExecProcessRequest {
            container_id: self.container.id.clone(),
            stdin,
            stdout,
            stderr,
            terminal: self.streams.terminal,
            spec: Some(spec::pack("Process", &self.process)),
            exec_id: exec_id.clone(),
        };
        namespace.client().tasks().exec(namespace.request(request)).await?;
        Ok(Container::new(namespace, self.container.id.clone(), exec_id, 0, self.process, streams))
    }
}
