//! The task API on the wire: decodes requests and encodes responses. [`crate::pod::calls`] implements the calls.
//!
//! Versions 2 and 3 have the same messages and differ only in the name of the service; both are served. Every method is written out,
//! because the generated default answers `NotFound`, which containerd interprets as a container that is gone.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
    ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest,
    StateResponse, StatsRequest, StatsResponse, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField};
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::{Task, create_task};
use prewasi_precompiler::chain;
use tracing::Instrument as _;
use ttrpc::r#async::{Service, TtrpcContext};

use crate::api::error::TaskError;
use crate::api::events::any;
use crate::api::time::timestamp;
use crate::node::cgroup::Cgroup;
use crate::node::mounts::Mount;
use crate::node::pid::Exit;
use crate::node::stats;
use crate::pod::calls::{CreateRequest, ExecRequest, Pod};
use crate::pod::container::Phase;
use crate::pod::job::NewContainer;
use crate::pod::options::RuntimeOptions;
use crate::pod::stdio::StdioPaths;
use crate::telemetry::trace::Context;

/// Names of the service: that of containerd 1.7, then that of 2.x, from which the bindings are generated.
const NAMES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// The service that answers the calls of the task API.
#[derive(Clone)]
struct TaskService(Arc<Pod>);

/// Returns the services of a shim, by name.
pub(crate) fn services(shim: &Arc<Pod>) -> HashMap<String, Service> {
    let service = || create_task(Arc::new(TaskService(shim.clone()))).into_values();
    NAMES.iter().flat_map(|name| service().map(|service| ((*name).to_owned(), service))).collect()
}

/// Reads the caller's span from the metadata of a call.
fn above(context: &TtrpcContext) -> Option<Context> {
    let value = |name: &str| context.metadata.get(name).map(|values| values.join(","));
    Context::parse(&value("traceparent")?, &value("tracestate").unwrap_or_default())
}

/// Runs a call to its end even if the client disconnects: half of a creation would leave a container that no client knows.
async fn to_the_end<T: Send + 'static>(
    span: tracing::Span,
    call: impl Future<Output = Result<T, TaskError>> + Send + 'static,
) -> ttrpc::Result<T> {
    match tokio::spawn(call.instrument(span)).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(ttrpc::Error::RpcStatus(ttrpc::get_status(
            ttrpc::Code::INTERNAL,
            format!("the shim failed in this call: {}", chain(&error)),
        ))),
    }
}

fn unsupported<T>(what: &'static str) -> ttrpc::Result<T> {
    Err(TaskError::Unsupported { what }.into())
}

#[async_trait]
impl Task for TaskService {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let container = self.0.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let status = match process.state().phase {
            Phase::Creating | Phase::Created => Status::CREATED,
            Phase::Starting if !process.exec_id.is_empty() => Status::CREATED,
            Phase::Starting | Phase::Running if container.is_paused() => Status::PAUSED,
            Phase::Starting | Phase::Running => Status::RUNNING,
            Phase::Stopped => Status::STOPPED,
        };
        let exit = process.exit();
        Ok(StateResponse {
            id: request.id,
            bundle: container.bundle.display().to_string(),
            pid: process.pid(),
            status: EnumOrUnknown::new(status),
            stdin: process.stdio.stdin.clone(),
            stdout: process.stdio.stdout.clone(),
            stderr: process.stdio.stderr.clone(),
            terminal: process.stdio.terminal,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map_or_else(MessageField::none, |exit| timestamp(exit.at)),
            exec_id: request.exec_id,
            ..StateResponse::default()
        })
    }

    async fn create(&self, context: &TtrpcContext, request: CreateTaskRequest) -> ttrpc::Result<CreateTaskResponse> {
        if !request.checkpoint.is_empty() {
            return unsupported("create a container from a checkpoint");
        }
        let create = CreateRequest {
            container: NewContainer {
                id: request.id,
                bundle: request.bundle.into(),
                rootfs: request.rootfs.into_iter().map(Mount::from).collect(),
                options: request.options.into_option().map(RuntimeOptions::from).unwrap_or_default(),
            },
            stdio: StdioPaths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            above: above(context),
        };
        let pid = to_the_end(self.0.span(&create.container.id), self.0.clone().create(create)).await?;
        Ok(CreateTaskResponse { pid, ..CreateTaskResponse::default() })
    }

    async fn start(&self, context: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let span = self.0.span(&request.id);
        let pid = to_the_end(span, self.0.clone().start(request.id, request.exec_id, above(context))).await?;
        Ok(StartResponse { pid, ..StartResponse::default() })
    }

    async fn delete(&self, context: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let span = self.0.span(&request.id);
        let deleting = self.0.clone().delete(request.id, request.exec_id, above(context));
        let (pid, exit) = to_the_end(span, deleting).await?;
        Ok(deleted(pid, exit))
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let processes = self.0.pids(&request.id)?.into_iter().map(process_info).collect();
        Ok(PidsResponse { processes, ..PidsResponse::default() })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        self.0.kill(request.id, &request.exec_id, request.signal, request.all)?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let exit = self.0.process(&request.id, &request.exec_id)?.wait().await;
        Ok(WaitResponse { exit_status: exit.status, exited_at: timestamp(exit.at), ..WaitResponse::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        let container = self.0.container(&request.id)?;
        container.set_connected(true);
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: container.init.pid(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..ConnectResponse::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let container = self.0.container(&request.id)?;
        let own = container.cgroup().filter(|cgroup| *cgroup != Cgroup::default());
        let cgroup = own.ok_or(TaskError::NoCgroup { id: request.id })?;
        let stats = stats::read(&cgroup).map_err(|error| ttrpc::Error::Others(error.to_string()))?;
        Ok(StatsResponse { stats: MessageField::some(stats), ..StatsResponse::default() })
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        if request.stdin {
            self.0.close_stdin(&request.id, &request.exec_id)?;
        }
        Ok(Empty::new())
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.0.shut_down();
        Ok(Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let exec = ExecRequest {
            id: request.id,
            exec_id: request.exec_id,
            stdio: StdioPaths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            spec: request.spec.into_option().unwrap_or_default().value,
        };
        self.0.add_exec(exec)?;
        Ok(Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let _entered = self.0.span(&request.id).entered();
        self.0.resize(&request.id, &request.exec_id, request.width, request.height)?;
        Ok(Empty::new())
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        to_the_end(self.0.span(&request.id), self.0.clone().pause(request.id)).await?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        to_the_end(self.0.span(&request.id), self.0.clone().resume(request.id)).await?;
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let resources = request.resources.into_option().unwrap_or_default().value;
        self.0.clone().update(request.id, resources).await?;
        Ok(Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        unsupported("checkpoint a container")
    }
}

/// Describes a process; an exec process also has its exec id.
fn process_info((pid, exec_id): (u32, Option<String>)) -> ProcessInfo {
    let details = exec_id.map(|exec_id| ProcessDetails { exec_id, ..ProcessDetails::default() });
    // Encoding a message with one short string does not fail.
    let info = details.and_then(|details| any(&details).ok());
    ProcessInfo { pid, info: info.map_or_else(MessageField::none, MessageField::some), ..ProcessInfo::default() }
}

/// Makes the response of a deletion, for the call and for the command.
pub(crate) fn deleted(pid: u32, exit: Exit) -> DeleteResponse {
    DeleteResponse { pid, exit_status: exit.status, exited_at: timestamp(exit.at), ..DeleteResponse::default() }
}

impl From<Any> for RuntimeOptions {
    fn from(options: Any) -> Self {
        Self { type_url: options.type_url, value: options.value }
    }
}

impl From<Mount> for containerd_shim_protos::api::Mount {
    fn from(mount: Mount) -> Self {
        let Mount { kind: type_, source, target, options } = mount;
        Self { type_, source, target, options, ..Self::default() }
    }
}

impl From<containerd_shim_protos::api::Mount> for Mount {
    fn from(mount: containerd_shim_protos::api::Mount) -> Self {
        Self { kind: mount.type_, source: mount.source, target: mount.target, options: mount.options }
    }
}
