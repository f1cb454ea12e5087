//! Creates containers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Pod, said, save};
use crate::api::error::TaskError;
use crate::api::events::Event;
use crate::failure::Failure;
use crate::pod::container::{Container, Phase};
use crate::pod::folders::is_id;
use crate::pod::job::{Create, Job, NewContainer};
use crate::pod::stdio::StdioPaths;
use crate::telemetry::trace::{Context, SpanParent, Trace};

/// A request to create a container.
#[derive(Debug)]
pub(crate) struct CreateRequest {
    pub(crate) container: NewContainer,
    pub(crate) stdio: StdioPaths,
    /// The caller's span.
    pub(crate) above: Option<Context>,
}

impl Pod {
    /// Creates a container; its init process waits to be started.
    ///
    /// # Errors
    /// [`TaskError`]; the remains of the container have been removed.
    pub(crate) async fn create(self: Arc<Self>, mut request: CreateRequest) -> Result<u32, TaskError> {
        if !is_id(&request.container.id) {
            return Err(TaskError::Id { id: request.container.id });
        }
        let known = [("namespace", &*self.namespace), ("container", &*request.container.id), ("pod", &*self.pod)];
        let trace = self.traces.begin(request.above.take(), &known);
        let call = trace.call("create", None);
        let made = self.create_traced(request, trace.clone(), call.origin()).await;
        call.end(said(&made));
        if made.is_err() {
            trace.end(None, said(&made));
        }
        made
    }

    /// Says once which options of the runtime are meant for runc and not obeyed here.
    fn warn_of_options(&self, new: &NewContainer) {
        if self.warned.load(Ordering::Relaxed) {
            return;
        }
        // Options that cannot be read fail the creation.
        let ignored = new.options.for_runc().map(|runc| runc.ignored).unwrap_or_default();
        if !ignored.is_empty() && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(options = ignored.join(","), "this shim ignores these options of runc");
        }
    }

    async fn create_traced(
        self: &Arc<Self>,
        request: CreateRequest,
        trace: Trace,
        origin: Option<SpanParent>,
    ) -> Result<u32, TaskError> {
        let begun = Instant::now();
        let CreateRequest { container: new, stdio, .. } = request;
        let id = new.id.clone();
        let container = Arc::new(Container::new(&new, stdio, trace));
        let init = container.init.clone();
        let _turn = init.turn.lock().await;
        {
            let mut containers = self.containers();
            if containers.contains_key(&id) {
                return Err(TaskError::Exists { id });
            }
            containers.insert(id.clone(), container.clone());
        }
        let opened = match self.open_streams(&container, &init).await {
            Ok(opened) => opened,
            Err(error) => {
                self.forget(&container);
                return Err(error);
            }
        };
        self.warn_of_options(&new);
        let rootfs = new.rootfs.clone();
        let job = Job::Create(Box::new(Create {
            container: new,
            pod: self.pod.clone(),
            folder: self.folder(&id),
            streams: opened.streams.clone(),
            store: self.store(),
            origin,
        }));
        let made = match self.make(&container, &init, opened, job).await {
            Ok(made) => made,
            Err(source) => {
                let source = if init.state().unwanted { Failure::given_up() } else { source };
                self.clear(&container).await;
                self.forget(&container);
                return Err(TaskError::Failed { action: "create", id, source });
            }
        };
        init.state().phase = Phase::Created;
        container.set_cgroup(made.cgroup);
        container.learn(&made.about);
        save(&container);
        self.watch_memory(&container);
        let pid = init.pid();
        let bundle = container.bundle.display().to_string();
        self.events.publish(&id, Event::Create { bundle, rootfs, stdio: init.stdio.clone(), pid });
        self.watch(&container, &init, made.exit);
        tracing::info!(pid, ms = begun.elapsed().as_millis(), "container created");
        Ok(pid)
    }
}
