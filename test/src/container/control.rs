//! What is done to a container while it runs.

use containerd_client::services::v1::{PauseTaskRequest, ResizePtyRequest, ResumeTaskRequest, UpdateTaskRequest};
use rustix::process::Signal;
use serde_json::Value;
use tonic::Status;

use super::Container;
use crate::spec;

impl Container {
    /// Stops all its processes.
    ///
    /// # Errors
    /// What the shim answers.
    pub async fn pause(&self) -> Result<(), Status> {
        let request = PauseTaskRequest { container_id: self.id.clone() };
        self.namespace.client().tasks().pause(self.namespace.request(request)).await.map(drop)
    }

    /// Lets its processes go on.
    ///
    /// # Errors
    /// What the shim answers.
    pub async fn resume(&self) -> Result<(), Status> {
        let request = ResumeTaskRequest { container_id: self.id.clone() };
        self.namespace.client().tasks().resume(self.namespace.request(request)).await.map(drop)
    }

    /// Changes its limits to those of a document of the runtime specification.
    ///
    /// # Errors
    /// What the shim answers.
    pub async fn update(&self, resources: &Value) -> Result<(), Status> {
        let resources = Some(spec::pack("LinuxResources", resources));
        let request = UpdateTaskRequest { container_id: self.id.clone(), resources, ..Default::default() };
        self.namespace.client().tasks().update(self.namespace.request(request)).await.map(drop)
    }

    /// Sets the size of the process's terminal.
    ///
    /// # Errors
    /// What the shim answers.
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
