//! `delete`: cleans up after a daemon that died, from the state on disk. containerd calls it when it cannot reach the daemon. The working
//! directory is the bundle.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_shim_protos::api::ShutdownRequest;
use containerd_shim_protos::protobuf::{Error as ProtobufError, Message as _};
use containerd_shim_protos::shim_sync::{Client, TaskClient};
use ttrpc::context;

use crate::api::args::Flags;
use crate::api::group::group_of;
use crate::api::service::deleted;
use crate::api::sockets;
use crate::failure::Failure;
use crate::node::pid::Exit;
use crate::pod::folders;
use crate::pod::folders::is_id;
use crate::pod::job::Remove;
use crate::pod::orphans::Sweep;
use crate::pod::pending;
use crate::pod::record::Record;
use crate::pod::spec;
use crate::telemetry::observe;

/// Time limit for the daemon's response.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// Time limit for the removal of a pod's other containers. containerd gives a `delete` five seconds.
const SWEEP_LIMIT: Duration = Duration::from_secs(3);

/// The reason why a container could not be cleaned up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeleteError {
    #[error("cannot use {id:?} as the id of a container")]
    Id { id: String },
    #[error("cannot find the bundle")]
    Bundle(#[source] io::Error),
    #[error("cannot delete container {id}")]
    Remove {
        id: String,
        #[source]
        source: Failure,
    },
    #[error("cannot encode the answer")]
    Encode(#[source] ProtobufError),
    #[error("cannot print the answer")]
    Output(#[source] io::Error),
}

/// Removes the remains of a container and prints its exit status.
///
/// # Errors
/// [`DeleteError`]. The other steps of the removal are done all the same.
pub(crate) fn run(flags: &Flags) -> Result<(), DeleteError> {
    let id = flags.id.clone();
    if !is_id(&id) {
        return Err(DeleteError::Id { id });
    }
    let bundle = match &flags.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(DeleteError::Bundle)?,
    };
    // Without a specification the container is its own pod.
    let pod = group_of(&id, &spec::annotations(&bundle).unwrap_or_default());
    let _entered = observe::container(&flags.namespace, &id, &pod).entered();
    let record = Record::load(&bundle).unwrap_or_default();
    let remove = Remove {
        folder: folders::container(&flags.address, &flags.namespace, &id),
        id: id.clone(),
        bundle: bundle.clone(),
        helper: record.helper,
        init: record.init,
        cgroup: record.cgroup,
    };
    // A working directory inside the mount would keep it busy.
    std::env::set_current_dir("/").map_err(DeleteError::Bundle)?;
    let sweep = (pod == id).then(|| Sweep::begin(&flags.address, &flags.namespace, &pod));
    let note = pending::note(&remove).inspect_err(|error| tracing::warn!(%error, "cannot note the removal"));
    let removed = remove.run();
    if let (Ok(()), Ok(note)) = (&removed, &note) {
        pending::forget(note);
    }
    end_daemon(&bundle);
    if sweep.is_some_and(|sweep| !sweep.wait(SWEEP_LIMIT)) {
        tracing::warn!(pod, "some remains of the pod's other containers are left; the next shim daemon removes them");
    }
    removed.map_err(|source| DeleteError::Remove { id, source })?;
    let exit = record.exit.map_or_else(Exit::killed, Exit::from);
    let pid = record.init.map_or(0, |init| init.pid.cast_unsigned());
    let answer = deleted(pid, exit).write_to_bytes().map_err(DeleteError::Encode)?;
    io::stdout().write_all(&answer).map_err(DeleteError::Output)
}

/// Asks the daemon that `start` recorded in the bundle to end. The daemon refuses if it serves other containers of the pod. It ends if
/// containerd died before it created a container. Then removes the sockets that no daemon listens on.
fn end_daemon(bundle: &Path) {
    let Ok(address) = fs::read_to_string(bundle.join("address")) else { return };
    let Some(path) = address.strip_prefix("unix://").map(PathBuf::from) else { return };
    if sockets::can_be_asked(&path)
        && let Err(error) = shut_down(&address)
    {
        tracing::warn!(%error, address, "cannot ask the daemon to end");
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    match sockets::lock(folder) {
        Ok(_lock) => {
            sockets::sweep(folder);
            // A sweep does not recognise the name of a socket from before an upgrade.
            sockets::remove_dead(&path);
        }
        Err(error) => tracing::warn!(%error, folder = %folder.display(), "cannot look for sockets of dead daemons"),
    }
}

fn shut_down(address: &str) -> ttrpc::Result<()> {
    let client = TaskClient::new(Client::connect(address)?);
    client.shutdown(context::with_duration(SHUTDOWN_LIMIT), &ShutdownRequest::default()).map(|_| ())
}
