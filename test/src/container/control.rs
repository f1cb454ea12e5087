//! Operations on a running container.

use containerd_client::services::v1::snapshots::MountsRequest;
use containerd_client::services::v1::{
    CreateTaskRequest, PauseTaskRequest, ResizePtyRequest, ResumeTaskRequest, UpdateTaskRequest,
};
use rustix::process::Signal;
use serde_json::Value;
use tonic::Status;

use super::streams::{Streams, Wanted};
use super::{Container, SNAPSHOTTER};
use crate::spec;

impl Container {
    /// Pauses all its processes.
    ///
    /// # Errors
    /// The shim's error.
    pub async fn pause(&self) -> Result<(), Status> {
        let request = PauseTaskRequest { container_id: self.id.clone() };
        self.namespace.client().tasks().pause(self.namespace.request(request)).await.map(drop)
    }

    /// Resumes its processes.
    ///
    /// # Errors
    /// The shim's error.
    pub async fn resume(&self) -> Result<(), Status> {
        let request = ResumeTaskRequest { container_id: self.id.clone() };
        self.namespace.client().tasks().resume(self.namespace.request(request)).await.map(drop)
    }

    /// Changes its limits to those in a document of the runtime specification.
    ///
    /// # Errors
    /// The shim's error.
    pub async fn update(&self, resources: &Value) -> Result<(), Status> {
        let resources = Some(spec::pack("LinuxResources", resources));
        let request = UpdateTaskRequest { container_id: self.id.clone(), resources, ..Default::default() };
        self.namespace.client().tasks().update(self.namespace.request(request)).await.map(drop)
    }

    /// Makes a new task of the container, whose previous task has been deleted.
    ///
    /// # Errors
    /// The shim's error.
    ///
    /// # Panics
    /// If its snapshot is gone.
    pub async fn create_again(&mut self) -> Result<(), Status> {
        let request = MountsRequest { snapshotter: SNAPSHOTTER.to_owned(), key: self.id.clone() };
        let mounts = self.namespace.client().snapshots().mounts(self.namespace.request(request)).await;
        let folder = self.namespace.folder().join(self.namespace.fresh_id("streams"));
        let (streams, stdin, stdout, stderr) = Wanted::default().make(&folder);
        let request = CreateTaskRequest {
            container_id: self.id.clone(),
            rootfs: mounts.expect("the snapshot is there").into_inner().mounts,
            stdin,
            stdout,
            stderr,
            ..Default::default()
        };
        self.pid = self.namespace.client().tasks().create(self.namespace.request(request)).await?.into_inner().pid;
        let Streams { stdin, stdout, stderr } = streams;
        (self.stdin, self.stdout, self.stderr) = (stdin, stdout, stderr);
        Ok(())
    }

    /// Sets the size of the process's terminal.
    ///
    /// # Errors
    /// The shim's error.
    pub async fn resize(&self, width: u32, height: u32) -> Result<(), Status> {
        let (container_id, exec_id) = (self.id.clone(), self.exec_id.clone());
        let request = ResizePtyRequest { container_id, exec_id, width, height };
        self.namespace.client().tasks().resize_pty(self.namespace.request(request)).await.map(drop)
    }

    /// Kills it, and deletes it when it has ended.
    ///
    /// # Panics
    /// If it has ended before, or cannot be deleted.
    pub async fn end(mut self) {
        self.kill(Signal::KILL).await.expect("a running container can be killed");
        assert_eq!(self.wait().await, 137);
        self.delete().await;
    }
}
