//! Requests to containerd that `ctr` cannot make: new limits for a container, and pods as the kubelet makes them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use containerd_client::Client;
use containerd_client::services::v1::UpdateTaskRequest;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatusRequest, CreateContainerRequest, ImageSpec,
    LinuxContainerConfig, LinuxContainerResources, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata,
    RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
    UpdateContainerResourcesRequest,
};
use prost_types::Any;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::error::NodeError;

const SOCKET: &str = "/run/containerd/containerd.sock";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Give a task other limits
    Update {
        /// Namespace of the task
        #[arg(long)]
        namespace: String,
        /// The task
        id: String,
        /// Resources, as the runtime specification writes them
        resources: String,
    },
    /// Run a pod with one container, and print the ids of both
    RunPod(Pod),
    /// Print the state of a pod's container, its exit code, and the reason of its end
    Status {
        /// The container
        id: String,
    },
    /// Give a pod's container another limit of memory, as in-place resizing does
    Resize {
        /// The container
        id: String,
        /// Bytes
        memory: i64,
    },
    /// Stop a pod's container
    StopContainer {
        /// The container
        id: String,
        /// Seconds until it is killed
        grace: i64,
    },
    /// Stop a pod and remove it
    RemovePod {
        /// The pod
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Pod {
    /// Handler that runs it
    #[arg(long)]
    handler: String,
    /// Slice that it lies in
    #[arg(long)]
    parent: String,
    /// Limit of its container's memory in bytes
    #[arg(long, default_value_t = 0)]
    memory: i64,
    /// User that its container runs as
    #[arg(long)]
    user: Option<i64>,
    /// Its name
    name: String,
    /// Image of its container, which must be there
    image: String,
    /// Command of its container
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Executes the verb of a case.
#[expect(clippy::print_stdout, reason = "the answer is for the case")]
pub(crate) fn run(verb: Verb) -> Result<std::process::ExitCode, NodeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(NodeError::file("/proc/self"))?;
    if let Some(answer) = runtime.block_on(call(verb))? {
        println!("{answer}");
    }
    Ok(std::process::ExitCode::SUCCESS)
}

async fn call(verb: Verb) -> Result<Option<String>, NodeError> {
    let client = Client::from_path(PathBuf::from(SOCKET)).await.map_err(|error| refused("reach containerd", &error))?;
    let mut cri = RuntimeServiceClient::new(client.channel());
    match verb {
        Verb::Update { namespace, id, resources } => {
            let resources = Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".to_owned(),
                value: resources.into_bytes(),
            };
            let message = UpdateTaskRequest { container_id: id, resources: Some(resources), ..Default::default() };
            let mut request = Request::new(message);
            let namespace = namespace.parse().map_err(|error| refused("name a namespace", &error))?;
            request.metadata_mut().insert("containerd-namespace", namespace);
            client.tasks().update(request).await.map_err(|status| answered("update a task", &status))?;
            Ok(None)
        }
        Verb::RunPod(pod) => run_pod(&mut cri, pod).await.map(Some),
        Verb::Status { id } => status(&mut cri, id).await.map(Some),
        Verb::Resize { id, memory } => {
            let linux = Some(LinuxContainerResources { memory_limit_in_bytes: memory, ..Default::default() });
            let request = UpdateContainerResourcesRequest { container_id: id, linux, ..Default::default() };
            cri.update_container_resources(request).await.map_err(|status| answered("resize a container", &status))?;
            Ok(None)
        }
        Verb::StopContainer { id, grace } => {
            let request = StopContainerRequest { container_id: id, timeout: grace };
            cri.stop_container(request).await.map_err(|status| answered("stop a container", &status))?;
            Ok(None)
        }
        Verb::RemovePod { id } => {
            let request = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
            cri.stop_pod_sandbox(request).await.map_err(|status| answered("stop a pod", &status))?;
            let request = RemovePodSandboxRequest { pod_sandbox_id: id };
            cri.remove_pod_sandbox(request).await.map_err(|status| answered("remove a pod", &status))?;
            Ok(None)
        }
    }
}

async fn run_pod(cri: &mut RuntimeServiceClient<Channel>, pod: Pod) -> Result<String, NodeError> {
    let metadata = PodSandboxMetadata {
        uid: format!("uid-{}", pod.name),
        namespace: "node".to_owned(),
        name: pod.name.clone(),
        attempt: 0,
    };
    let config = PodSandboxConfig {
        metadata: Some(metadata),
        log_directory: format!("/var/log/pods/{}", pod.name),
        linux: Some(LinuxPodSandboxConfig { cgroup_parent: pod.parent, ..Default::default() }),
        ..Default::default()
    };
    let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: pod.handler };
    let answer = cri.run_pod_sandbox(request).await.map_err(|status| answered("run a pod", &status))?;
    let pod_sandbox_id = answer.into_inner().pod_sandbox_id;
    let resources = LinuxContainerResources { memory_limit_in_bytes: pod.memory, ..Default::default() };
    let security_context = pod.user.map(|value| k8s_cri::v1::LinuxContainerSecurityContext {
        run_as_user: Some(k8s_cri::v1::Int64Value { value }),
        ..Default::default()
    });
    let container = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "box".to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: pod.image, ..Default::default() }),
        command: pod.command,
        log_path: "box.log".to_owned(),
        linux: Some(LinuxContainerConfig { resources: Some(resources), security_context }),
        ..Default::default()
    };
    let request = CreateContainerRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
        config: Some(container),
        sandbox_config: Some(config),
    };
    let answer = cri.create_container(request).await.map_err(|status| answered("create a container", &status))?;
    let container_id = answer.into_inner().container_id;
    let request = StartContainerRequest { container_id: container_id.clone() };
    cri.start_container(request).await.map_err(|status| answered("start a container", &status))?;
    Ok(format!("{pod_sandbox_id} {container_id}"))
}

async fn status(cri: &mut RuntimeServiceClient<Channel>, id: String) -> Result<String, NodeError> {
    let request = ContainerStatusRequest { container_id: id, verbose: false };
    let answer = cri.container_status(request).await.map_err(|status| answered("ask for a container", &status))?;
    let status = answer.into_inner().status.unwrap_or_default();
    let state = match status.state() {
        ContainerState::ContainerCreated => "created",
        ContainerState::ContainerRunning => "running",
        ContainerState::ContainerExited => "exited",
        ContainerState::ContainerUnknown => "unknown",
    };
    Ok(format!("{state} {} {}", status.exit_code, status.reason))
}

fn answered(action: &'static str, status: &Status) -> NodeError {
    NodeError::Containerd { action, reason: format!("{:?}: {}", status.code(), status.message()) }
}

fn refused(action: &'static str, error: &dyn std::error::Error) -> NodeError {
    NodeError::Containerd { action, reason: error.to_string() }
}
