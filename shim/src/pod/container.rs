//! One container in the daemon: its configuration and its processes.

mod process;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub(crate) use process::{Phase, Process};

use crate::api::error::TaskError;
use crate::node::cgroup::Cgroup;
use crate::node::oom::OomWatch;
use crate::pod::job::NewContainer;
use crate::pod::options::RuntimeOptions;
use crate::pod::stdio::StdioPaths;
use crate::telemetry::observe::{self, About};
use crate::telemetry::trace::Trace;

/// A container.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    /// Options of its runtime, for exec processes.
    pub(crate) options: RuntimeOptions,
    /// The first process; the container ends with it.
    pub(crate) init: Arc<Process>,
    /// Exec processes, by exec id.
    others: Mutex<HashMap<String, Arc<Process>>>,
    cgroup: Mutex<Option<Cgroup>>,
    /// Locked for writing to pause or resume the container, and for reading to make a process in it. A process that enters a frozen
    /// cgroup during its creation would not come out.
    pub(crate) gate: tokio::sync::RwLock<()>,
    paused: AtomicBool,
    /// Whether the last call about the container was `Connect`.
    connected: AtomicBool,
    memory_watch: OnceLock<OomWatch>,
    /// The tracing span of the container.
    pub(crate) span: tracing::Span,
    pub(crate) trace: Trace,
}

impl Container {
    /// Makes a container that is about to be created. The current span must be the container's.
    pub(crate) fn new(new: &NewContainer, stdio: StdioPaths, trace: Trace) -> Self {
        let init = Arc::new(Process::init(stdio));
        Self {
            id: new.id.clone(),
            bundle: new.bundle.clone(),
            options: new.options.clone(),
            init,
            others: Mutex::default(),
            cgroup: Mutex::default(),
            gate: tokio::sync::RwLock::default(),
            paused: AtomicBool::default(),
            connected: AtomicBool::default(),
            memory_watch: OnceLock::new(),
            span: tracing::Span::current(),
            trace,
        }
    }

    /// Records new facts about the container.
    pub(crate) fn learn(&self, about: &About) {
        observe::learn(&self.span, about);
        for (name, value) in [("image", &about.image), ("engine", &about.engine)] {
            if let Some(value) = value {
                self.trace.learn(name, value);
            }
        }
    }

    /// Finds a process; the init process has no exec id.
    ///
    /// # Errors
    /// [`TaskError::NoProcess`].
    pub(crate) fn process(&self, exec_id: &str) -> Result<Arc<Process>, TaskError> {
        if exec_id.is_empty() {
            return Ok(self.init.clone());
        }
        let process = self.others().get(exec_id).cloned();
        process.ok_or_else(|| TaskError::NoProcess { id: self.id.clone(), exec_id: exec_id.to_owned() })
    }

    /// Returns the exec processes. The guard must not be held across an await.
    pub(crate) fn others(&self) -> MutexGuard<'_, HashMap<String, Arc<Process>>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the container runs and is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Returns whether the last call about the container was `Connect`.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// Returns the watch for out-of-memory kills.
    pub(crate) fn memory_watch(&self) -> Option<&OomWatch> {
        self.memory_watch.get()
    }

    pub(crate) fn set_memory_watch(&self, watch: OomWatch) {
        // A container is created once, so the cell is empty.
        let _ = self.memory_watch.set(watch);
    }

    /// Returns the container's cgroups, if they are known.
    pub(crate) fn cgroup(&self) -> Option<Cgroup> {
        self.cgroup.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_cgroup(&self, cgroup: Option<Cgroup>) {
        *self.cgroup.lock().unwrap_or_else(PoisonError::into_inner) = cgroup;
    }
}
