//! Helpers: short-lived processes forked from the daemon, one for each job.
//!
//! libcontainer forks, and changes the working directory, the OOM score and more of the calling process; engines and
//! gRPC clients allocate and start threads. All that happens in a helper, so that the daemon stays small, with one
//! thread, and never blocks. A helper tells its result through a pipe; one that dies without a word has failed.
//!
//! The fork itself is done by the main thread outside the runtime (see [`crate::daemon`]). The child uses nothing of the
//! parent's runtime, closes its descriptors, and ends with `_exit`.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, Pid, fork, getppid, setpgid};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::cgroup::Cgroup;
use crate::command::EngineConstructor;
use crate::error::{Failure, Kind};
use crate::job::Job;
use crate::log;
use crate::observe::{self, About};
use crate::process::{Exit, ProcessId};
use crate::reaper::Reaper;
use crate::trace::{Span, Traces};

/// Where a helper finds its end of the pipe, next to [`log::FD`].
const REPORT_FD: i32 = log::FD - 1;
/// Longest message that goes through the pipe; its buffer holds 64 KiB, and nobody reads before the helper has ended.
const MESSAGE_MAX: usize = 16 << 10;

/// All that a helper writes.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    report: Report,
    /// For the trace, if there is one.
    spans: Vec<Span>,
}

/// What a helper has to say.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// A process of a container is there.
    Process { id: ProcessId, cgroup: Option<Cgroup>, about: About },
    /// The job is done.
    Done,
    /// The job has failed.
    Failed(Failure),
}

/// A job that waits for the main thread to fork.
pub(crate) struct ForkRequest {
    job: Job,
    /// Which container the job concerns, for the log.
    subject: tracing::Span,
    reply: oneshot::Sender<io::Result<Running>>,
}

/// A helper that has been forked.
struct Running {
    id: ProcessId,
    report: OwnedFd,
    exit: oneshot::Receiver<Exit>,
}

/// Has jobs done by helpers.
#[derive(Clone)]
pub(crate) struct Helpers {
    requests: mpsc::UnboundedSender<ForkRequest>,
    reaper: Arc<Reaper>,
    traces: Traces,
}

/// What a job that makes a process of a container leads to.
pub(crate) struct NewProcess {
    pub(crate) id: ProcessId,
    /// Its cgroups, if it is a container's first process.
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) about: About,
    /// Resolves when the process has ended.
    pub(crate) exit: oneshot::Receiver<Exit>,
}

impl Helpers {
    /// Makes the asynchronous side; requests go to the main thread, and the spans of helpers to `traces`.
    pub(crate) fn new(reaper: Arc<Reaper>, traces: Traces) -> (Self, mpsc::UnboundedReceiver<ForkRequest>) {
        let (requests, receiver) = mpsc::unbounded_channel();
        (Self { requests, reaper, traces }, receiver)
    }

    /// Has a job done that makes a process of a container. `started` gets the helper's number, whose
    /// process group is to be killed if the job must not go on.
    ///
    /// # Errors
    /// [`Failure`] tells why, also of a helper that died.
    pub(crate) async fn make_process(&self, job: Job, started: impl FnOnce(ProcessId)) -> Result<NewProcess, Failure> {
        // The process may end before its helper has reported its number: ends that nobody waits for are kept.
        let keeping = self.reaper.keep_unclaimed();
        let report = self.run(job, started).await;
        let made = match report {
            Ok(Report::Process { id, cgroup, about }) => {
                Ok(NewProcess { id, cgroup, about, exit: self.reaper.watch(id.pid) })
            }
            Ok(Report::Done) => Err(broken("it made no process")),
            Ok(Report::Failed(failure)) => Err(failure),
            Err(failure) => Err(failure),
        };
        drop(keeping);
        made
    }

    /// Has any other job done.
    ///
    /// # Errors
    /// [`Failure`] tells why, also of a helper that died.
    pub(crate) async fn work(&self, job: Job) -> Result<(), Failure> {
        match self.run(job, |_| {}).await? {
            Report::Done => Ok(()),
            Report::Process { .. } => Err(broken("it made a process")),
            Report::Failed(failure) => Err(failure),
        }
    }

    async fn run(&self, job: Job, started: impl FnOnce(ProcessId)) -> Result<Report, Failure> {
        let (reply, running) = oneshot::channel();
        if self.requests.send(ForkRequest { job, subject: tracing::Span::current(), reply }).is_err() {
            return Err(broken("the shim is shutting down"));
        }
        let running = running.await.map_err(|_| broken("the shim is shutting down"))?;
        let running = running.map_err(|error| Failure::new(Kind::Internal, &error))?;
        started(running.id);
        let exit = running.exit.await.map_err(|_| broken("nobody saw it end"))?;
        let said = read_said(&running.report).ok_or_else(|| {
            // What it had started must not go on without it.
            running.id.kill_group();
            kill_holders(&running.report);
            broken(&format!("it ended with status {} and no report", exit.status))
        })?;
        self.traces.keep(said.spans);
        Ok(said.report)
    }
}

impl ForkRequest {
    /// Forks. Must be called by the main thread outside any runtime.
    pub(crate) fn fork(self, reaper: &Reaper, engine: EngineConstructor) {
        let running = start(&self.job, &self.subject, reaper, engine);
        // Who asked may have gone; the helper then does its job all the same.
        let _ = self.reply.send(running);
    }
}

fn start(job: &Job, subject: &tracing::Span, reaper: &Reaper, engine: EngineConstructor) -> io::Result<Running> {
    let (report, sender) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let parent = nix::unistd::getpid();
    // SAFETY: this process has one thread, so the child finds no lock held and may do all that a process may do.
    match unsafe { fork() }? {
        ForkResult::Child => child(job, subject, parent, &sender, engine),
        ForkResult::Parent { child } => {
            let exit = reaper.watch(child.as_raw());
            // Nobody has waited for it yet: it is there, whatever it does.
            Ok(Running { id: ProcessId::of(child.as_raw())?, report, exit })
        }
    }
}

fn child(job: &Job, subject: &tracing::Span, parent: Pid, sender: &OwnedFd, engine: EngineConstructor) -> ! {
    let _entered = subject.enter();
    if let Some(origin) = job.origin() {
        observe::follow(origin);
    }
    let report = match prepare(parent, sender) {
        Ok(()) => catch_unwind(AssertUnwindSafe(|| job.run(engine)))
            .unwrap_or_else(|_| Report::Failed(broken("it panicked; see the log of the shim"))),
        Err(error) => Report::Failed(Failure::new(Kind::Internal, &error)),
    };
    let mut pipe = {
        use std::os::fd::FromRawFd as _;
        // SAFETY: `prepare` has put the pipe there, and nothing else owns that number; if it failed before, writing fails.
        unsafe { File::from_raw_fd(REPORT_FD) }
    };
    let said = Said { report: shortened(report), spans: observe::ended() };
    let said = serde_json::to_vec(&said).unwrap_or_default();
    // A parent that is gone need not be told.
    let _ = pipe.write_all(&said);
    // SAFETY: _exit runs no destructors: what is owned here belongs to the parent.
    unsafe { nix::libc::_exit(0) }
}

/// Turns a copy of the daemon into a process of its own: its signals, its group, no descriptors but the standard ones,
/// the pipe and the log.
fn prepare(parent: Pid, sender: &OwnedFd) -> io::Result<()> {
    // SAFETY: the values that own the descriptors are never used or dropped in this process.
    unsafe {
        if nix::libc::dup2(sender.as_raw_fd(), REPORT_FD) < 0 {
            return Err(io::Error::last_os_error());
        }
        nix::libc::syscall(nix::libc::SYS_close_range, log::FD + 1, nix::libc::c_int::MAX, 0);
    }
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if getppid() != parent {
        return Err(io::Error::other("the shim has ended"));
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    // The bundle, where the daemon was started, may be gone by now.
    std::env::set_current_dir("/")
}

fn shortened(report: Report) -> Report {
    match report {
        Report::Failed(Failure { kind, message }) if message.len() > MESSAGE_MAX => {
            let end = message.floor_char_boundary(MESSAGE_MAX);
            Report::Failed(Failure { kind, message: format!("{} […]", &message[..end]) })
        }
        report => report,
    }
}

/// Reads what a helper that has ended has written. The pipe does not end as long as the container's init lives, which
/// has inherited it.
fn read_said(pipe: &OwnedFd) -> Option<Said> {
    let mut bytes = Vec::new();
    match File::from(pipe.try_clone().ok()?).read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(_) => return None,
    }
    serde_json::from_slice(&bytes).ok()
}

/// Kills the processes that still hold the writing end where a helper has it: what it was making, in a session of its own by
/// now, and not yet the program that it was to become.
fn kill_holders(pipe: &OwnedFd) {
    let (Ok(stat), Ok(processes)) = (rustix::fs::fstat(pipe), std::fs::read_dir("/proc")) else { return };
    let name = PathBuf::from(format!("pipe:[{}]", stat.st_ino));
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids.filter(|pid| *pid != std::process::id().cast_signed()) {
        let Ok(process) = ProcessId::of(pid) else { continue };
        if std::fs::read_link(format!("/proc/{pid}/fd/{REPORT_FD}")).is_ok_and(|held| held == name) {
            tracing::warn!(pid, "killing what a helper has left behind");
            process.kill();
        }
    }
}

fn broken(why: &str) -> Failure {
    Failure { kind: Kind::Internal, message: format!("the helper process failed: {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report is read although somebody still holds the writing end.
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

    /// A helper that died has left nothing that could be taken for a report.
    #[test]
    fn silence_is_no_report() {
        let (report, sender) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        drop(sender);
        assert!(read_said(&report).is_none());
    }

    /// What a helper has left behind is killed, and nobody else.
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
