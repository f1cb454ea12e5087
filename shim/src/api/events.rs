//! Sends events about containers to containerd, in order, across restarts of containerd.
//!
//! Events wait in a queue. A failed send is retried until it succeeds: containerd receives an exit that happened while it was down.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused, TaskResumed,
    TaskStart,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{MessageField, MessageFull};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::topics;
use tokio::sync::Notify;
use ttrpc::context;

use crate::api::time::timestamp;
use crate::node::mounts::Mount;
use crate::node::pid::Exit;
use crate::pod::stdio::StdioPaths;

/// Capacity of the queue, in events. A pod makes a handful; the limit keeps a daemon small whose containerd is gone.
const QUEUE_MAX: usize = 4096;
/// How long containerd may take to accept an event.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// Pause after a failed attempt: the first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// An event in the life of a container.
#[derive(Debug)]
pub(crate) enum Event {
    Create {
        bundle: String,
        rootfs: Vec<Mount>,
        stdio: StdioPaths,
        pid: u32,
    },
    Start {
        pid: u32,
    },
    /// The end of a process. The init process has no exec id.
    Exit {
        exec_id: String,
        pid: u32,
        exit: Exit,
    },
    ExecAdded {
        exec_id: String,
    },
    ExecStarted {
        exec_id: String,
        pid: u32,
    },
    Paused,
    Resumed,
    Oom,
    Delete {
        pid: u32,
        exit: Exit,
    },
}

/// The sending end of the queue.
#[derive(Clone)]
pub(crate) struct Events {
    queue: Arc<Queue>,
    namespace: String,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<Envelope>>,
    changed: Notify,
    emptied: Notify,
}

impl Events {
    /// Starts the task that sends to containerd's ttrpc socket.
    pub(crate) fn start(address: String, namespace: String) -> Self {
        let queue = Arc::new(Queue::default());
        if address.is_empty() {
            tracing::warn!("containerd named no socket for events; no events will be sent");
        } else {
            tokio::spawn(send_all(queue.clone(), address));
        }
        Self { queue, namespace }
    }

    /// Puts an event at the end of the queue.
    pub(crate) fn publish(&self, id: &str, event: Event) {
        let (topic, event) = event.encode(id);
        let event = match event {
            Ok(event) => event,
            Err(error) => return tracing::error!(%error, topic, "cannot encode an event"),
        };
        let envelope = Envelope {
            timestamp: timestamp(SystemTime::now()),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(event),
            ..Envelope::default()
        };
        let mut waiting = self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= QUEUE_MAX {
            waiting.pop_front();
            tracing::error!("dropped the oldest event: containerd accepts no events");
        }
        waiting.push_back(envelope);
        self.queue.changed.notify_one();
    }

    /// Waits until the queue is empty or the time is over.
    pub(crate) async fn flush(&self, limit: Duration) {
        let empty = async {
            loop {
                let emptied = self.queue.emptied.notified();
                if self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                    return;
                }
                emptied.await;
            }
        };
        if tokio::time::timeout(limit, empty).await.is_err() {
            tracing::warn!("containerd has not accepted some events");
        }
    }
}

impl Event {
    fn encode(self, id: &str) -> (&'static str, containerd_shim_protos::protobuf::Result<Any>) {
        let container_id = id.to_owned();
        match self {
            Self::Create { bundle, rootfs, stdio, pid } => {
                let rootfs = rootfs.into_iter().map(Into::into).collect();
                let StdioPaths { stdin, stdout, stderr, terminal } = stdio;
                let io = MessageField::some(TaskIO { stdin, stdout, stderr, terminal, ..TaskIO::default() });
                (
                    topics::TASK_CREATE_EVENT_TOPIC,
                    any(&TaskCreate { container_id, bundle, rootfs, io, pid, ..TaskCreate::default() }),
                )
            }
            Self::Start { pid } => {
                (topics::TASK_START_EVENT_TOPIC, any(&TaskStart { container_id, pid, ..TaskStart::default() }))
            }
            Self::Exit { exec_id, pid, exit } => {
                let event = TaskExit {
                    container_id,
                    id: if exec_id.is_empty() { id.to_owned() } else { exec_id },
                    pid,
                    exit_status: exit.status,
                    exited_at: timestamp(exit.at),
                    ..TaskExit::default()
                };
                (topics::TASK_EXIT_EVENT_TOPIC, any(&event))
            }
            Self::ExecAdded { exec_id } => {
                let event = TaskExecAdded { container_id, exec_id, ..TaskExecAdded::default() };
                (topics::TASK_EXEC_ADDED_EVENT_TOPIC, any(&event))
            }
            Self::ExecStarted { exec_id, pid } => {
                let event = TaskExecStarted { container_id, exec_id, pid, ..TaskExecStarted::default() };
                (topics::TASK_EXEC_STARTED_EVENT_TOPIC, any(&event))
            }
            Self::Paused => {
                (topics::TASK_PAUSED_EVENT_TOPIC, any(&TaskPaused { container_id, ..TaskPaused::default() }))
            }
            Self::Resumed => {
                (topics::TASK_RESUMED_EVENT_TOPIC, any(&TaskResumed { container_id, ..TaskResumed::default() }))
            }
            Self::Oom => (topics::TASK_OOM_EVENT_TOPIC, any(&TaskOOM { container_id, ..TaskOOM::default() })),
            Self::Delete { pid, exit } => {
                let event = TaskDelete {
                    container_id,
                    pid,
                    exit_status: exit.status,
                    exited_at: timestamp(exit.at),
                    ..TaskDelete::default()
                };
                (topics::TASK_DELETE_EVENT_TOPIC, any(&event))
            }
        }
    }
}

/// Packs a message as Go's `typeurl` does: the type URL is the type's name, without a host in front.
pub(crate) fn any<M: MessageFull>(message: &M) -> containerd_shim_protos::protobuf::Result<Any> {
    let type_url = M::descriptor().full_name().to_owned();
    Ok(Any { type_url, value: message.write_to_bytes()?, ..Any::default() })
}

async fn send_all(queue: Arc<Queue>, address: String) {
    let address = if address.contains("://") { address } else { format!("unix://{address}") };
    let mut client = None;
    let mut pause = PAUSES.0;
    loop {
        let first = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).front().cloned();
        let Some(envelope) = first else {
            queue.emptied.notify_waiters();
            queue.changed.notified().await;
            continue;
        };
        match send(&mut client, &address, envelope.clone()).await {
            Ok(()) => {
                pause = PAUSES.0;
                let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                // The queue may have dropped this event meanwhile.
                if waiting.front() == Some(&envelope) {
                    waiting.pop_front();
                }
            }
            Err(error) => {
                tracing::debug!(%error, topic = envelope.topic, "containerd takes no event now");
                client = None;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

async fn send(client: &mut Option<EventsClient>, address: &str, envelope: Envelope) -> ttrpc::Result<()> {
    let connected = match client {
        Some(connected) => connected,
        None => client.insert(EventsClient::new(Client::connect(address).await?)),
    };
    let request = ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() };
    connected.forward(context::with_duration(SEND_LIMIT), &request).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    use async_trait::async_trait;
    use containerd_shim_protos::protobuf::well_known_types::empty::Empty;
    use containerd_shim_protos::shim_async::create_events;
    use ttrpc::r#async::{Server, TtrpcContext};

    #[derive(Clone, Default)]
    struct Receiver(Arc<Mutex<Vec<String>>>);

    #[async_trait]
    impl containerd_shim_protos::shim_async::Events for Receiver {
        async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
            self.0.lock().unwrap().push(request.envelope.topic.clone());
            Ok(Empty::new())
        }
    }

    /// Events from containerd's downtime arrive after its restart, in order.
    #[test]
    fn nothing_is_lost() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let path = std::env::temp_dir().join(format!("prewasi-events-{}.sock", std::process::id()));
        let address = format!("unix://{}", path.display());
        let exit = Exit { status: 3, at: SystemTime::now() };
        runtime.block_on(async {
            let events = Events::start(path.to_str().unwrap().to_owned(), "n".to_owned());
            events.publish("a", Event::Start { pid: 1 });
            events.publish("a", Event::Exit { exec_id: String::new(), pid: 1, exit });
            tokio::task::yield_now().await;
            let receiver = Receiver::default();
            let service = Arc::new(receiver.clone());
            let mut server = Server::new().bind(&address).unwrap().register_service(create_events(service));
            server.start().await.unwrap();
            events.publish("a", Event::Delete { pid: 1, exit });
            events.flush(Duration::from_secs(10)).await;
            assert_eq!(*receiver.0.lock().unwrap(), ["/tasks/start", "/tasks/exit", "/tasks/delete"]);
        });
        std::fs::remove_file(path).unwrap();
    }

    /// Type names equal those of containerd's own programs.
    #[test]
    fn type_names() {
        assert_eq!(any(&TaskStart::default()).unwrap().type_url, "containerd.events.TaskStart");
    }
}
