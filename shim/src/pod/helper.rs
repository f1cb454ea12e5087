//! Helpers: short-lived processes, one for each job.
//!
//! libcontainer forks, and changes the working directory, the OOM score and more of the calling process. Engines and gRPC clients allocate
//! and start threads. All that happens in a helper, so that the daemon stays small, has one thread, and never blocks. A helper reports its
//! result through a pipe; a helper that dies without a report has failed.
//!
//! The [`zygote`] forks helpers, so that their memory holds only the data of their job. They are children of the daemon.

mod order;
mod work;
mod zygote;

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub(crate) use self::zygote::Zygote;

use self::order::Order;
use self::work::Assignment;
use self::zygote::{CONTROL_FD, ForkError, Forks};
use crate::failure::{Failure, Kind};
use crate::node::cgroup::Cgroup;
use crate::node::pid::{Exit, ProcessId};
use crate::pod::job::{Job, Report};
use crate::pod::reaper::Reaper;
use crate::telemetry::observe::{About, Subject};
use crate::telemetry::trace::{Span, Traces};

/// Number of a helper's end of the pipe.
const REPORT_FD: i32 = CONTROL_FD;

/// The message of a helper: its report and its spans.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    report: Report,
    /// For the trace, if there is one.
    spans: Vec<Span>,
}

/// The reason why a helper was not started.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("cannot encode the job of a helper")]
    Assignment(#[source] io::Error),
    #[error("cannot make a pipe for a helper")]
    Pipe(#[source] io::Error),
    #[error(transparent)]
    Fork(#[from] ForkError),
}

/// A helper that has been forked.
struct Running {
    id: ProcessId,
    report: OwnedFd,
    exit: oneshot::Receiver<Exit>,
}

/// Runs jobs in helpers.
#[derive(Clone)]
pub(crate) struct Helpers {
    forks: Arc<Forks>,
    reaper: Arc<Reaper>,
    traces: Traces,
}

/// The result of a job that makes a process of a container.
pub(crate) struct NewProcess {
    pub(crate) id: ProcessId,
    /// The cgroups, if the process is a container's first one.
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) about: About,
    /// Resolves when the process has ended.
    pub(crate) exit: oneshot::Receiver<Exit>,
}

impl Helpers {
    /// Takes the zygote, and sends the spans of helpers to `traces`. Must be called in the runtime.
    ///
    /// # Errors
    /// The runtime cannot watch the zygote's socket.
    pub(crate) fn new(zygote: Zygote, reaper: Arc<Reaper>, traces: Traces) -> io::Result<Self> {
        Ok(Self { forks: Arc::new(Forks::new(zygote)?), reaper, traces })
    }

    /// Runs a job that makes a process of a container. `started` gets the helper's pid; to cancel the job, its process group is killed.
    ///
    /// # Errors
    /// [`Failure`] has the reason, also if the helper died.
    pub(crate) async fn make_process(&self, job: Job, started: impl FnOnce(ProcessId)) -> Result<NewProcess, Failure> {
        // The process may end before its helper has reported its pid: the reaper keeps exits that no caller waits for.
        let keeping = self.reaper.keep_unclaimed();
        let report = self.run(job, started).await;
        let made = match report {
            Ok(Report::Process { id, cgroup, about }) => {
                Ok(NewProcess { id, cgroup, about, exit: keeping.watch(id.pid) })
            }
            Ok(Report::Done) => Err(broken("it made no process")),
            Ok(Report::Failed(failure)) => Err(failure),
            Err(failure) => Err(failure),
        };
        drop(keeping);
        made
    }

    /// Runs any other job.
    ///
    /// # Errors
    /// [`Failure`] has the reason, also if the helper died.
    pub(crate) async fn work(&self, job: Job) -> Result<(), Failure> {
        match self.run(job, |_| {}).await? {
            Report::Done => Ok(()),
            Report::Process { .. } => Err(broken("it made a process")),
            Report::Failed(failure) => Err(failure),
        }
    }

    async fn run(&self, job: Job, started: impl FnOnce(ProcessId)) -> Result<Report, Failure> {
        let assignment = Assignment { job, subject: Subject::of(&tracing::Span::current()) };
        let starting = start(self.forks.clone(), self.reaper.clone(), assignment);
        // A separate task finishes the start even if the caller is dropped; the helper then does its job all the same.
        let running = tokio::spawn(starting).await.map_err(|_| broken("the shim is shutting down"))?;
        let running = running.map_err(|error| Failure::new(Kind::Internal, &error))?;
        started(running.id);
        let exit = running.exit.await.map_err(|_| broken("its exit status is unknown"))?;
        let said = read_said(&running.report).ok_or_else(|| {
            // Processes that the helper has started must not survive its failure.
            running.id.kill_group();
            kill_holders(&running.report);
            broken(&format!("it ended with status {} and no report", exit.status))
        })?;
        self.traces.keep(said.spans);
        Ok(said.report)
    }
}

async fn start(forks: Arc<Forks>, reaper: Arc<Reaper>, assignment: Assignment) -> Result<Running, StartError> {
    let assignment = assignment.pack().map_err(StartError::Assignment)?;
    let (report, sender) =
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|e| StartError::Pipe(e.into()))?;
    // The helper may end before its pid is known here.
    let keeping = reaper.keep_unclaimed();
    let pid = forks.fork(&Order { assignment, report: sender }).await?;
    let exit = keeping.watch(pid);
    // A pid is not reused as long as its process has not been reaped.
    let id = if exit.is_empty() { ProcessId::of(pid).ok() } else { None };
    Ok(Running { id: id.unwrap_or_else(|| ProcessId::ended(pid)), report, exit })
}

/// Reads the message of a helper that has ended. It does not read to the end of the pipe: the container's init has inherited the writing
/// end.
fn read_said(pipe: &OwnedFd) -> Option<Said> {
    let mut bytes = Vec::new();
    match File::from(pipe.try_clone().ok()?).read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(_) => return None,
    }
    serde_json::from_slice(&bytes).ok()
}

/// Kills the processes that still hold the writing end under the helper's descriptor number. That is a process that the helper was
/// making, already in its own session but not yet executing its program.
fn kill_holders(pipe: &OwnedFd) {
    let (Ok(stat), Ok(processes)) = (rustix::fs::fstat(pipe), std::fs::read_dir("/proc")) else { return };
    let name = PathBuf::from(format!("pipe:[{}]", stat.st_ino));
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids.filter(|pid| *pid != std::process::id().cast_signed()) {
        let Ok(process) = ProcessId::of(pid) else { continue };
        if std::fs::read_link(format!("/proc/{pid}/fd/{REPORT_FD}")).is_ok_and(|held| held == name) {
            tracing::warn!(pid, "killing a process that a helper left behind");
            process.kill();
        }
    }
}

fn broken(why: &str) -> Failure {
    Failure { kind: Kind::Internal, message: format!("the helper process failed: {why}") }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    use super::work::{MESSAGE_MAX, shortened};
    use super::*;

    /// A report is read although a process still holds the writing end.
    #[test]
    fn reports_do_not_need_an_end() {
        let (report, sender) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let failure = Failure { kind: Kind::Invalid, message: "x".repeat(MESSAGE_MAX + 1) };
        let said = Said { report: shortened(Report::Failed(failure)), spans: Vec::new() };
        let bytes = serde_json::to_vec(&said).unwrap();
        let mut writer = File::from(sender.try_clone().unwrap());
        writer.write_all(&bytes).unwrap();
        let Some(Said { report: Report::Failed(failure), .. }) = read_said(&report) else { panic!("no report") };
        assert_eq!(failure.kind, Kind::Invalid);
        assert!(failure.message.ends_with("x […]"));
        drop(sender);
    }

    /// A helper that died without a report yields none.
    #[test]
    fn silence_is_no_report() {
        let (report, sender) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        drop(sender);
        assert!(read_said(&report).is_none());
    }

    /// Processes that a helper has left behind are killed, and no others.
    #[test]
    fn heirs_are_killed() {
        use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
        use std::process::Command;

        let (report, sender) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let writer = sender.as_raw_fd();
        let mut heir = Command::new("sleep");
        heir.arg("600");
        let mut other = Command::new("sleep");
        other.arg("600");
        // SAFETY: dup2 and setsid have no memory effects.
        unsafe {
            heir.pre_exec(move || {
                nix::libc::setsid();
                if nix::libc::dup2(writer, REPORT_FD) < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        let (mut heir, mut other) = (heir.spawn().unwrap(), other.spawn().unwrap());
        kill_holders(&report);
        assert_eq!(heir.wait().unwrap().signal(), Some(nix::libc::SIGKILL));
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
