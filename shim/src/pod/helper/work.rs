//! The helper's side: a fork of the zygote sets up its process, reads its assignment, does the job, and reports.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::unistd::{Pid, setpgid};
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use super::order::{Order, die_with};
use super::{REPORT_FD, Said, broken};
use crate::engine::EngineConstructor;
use crate::failure::{Failure, Kind};
use crate::pod::job::{Job, Report};
use crate::telemetry::observe::{self, Subject};

/// Longest message that goes through the pipe, in bytes. The pipe's buffer holds 64 KiB, and the daemon reads only after the helper's
/// end.
pub(super) const MESSAGE_MAX: usize = 16 << 10;

/// The assignment of a helper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Assignment {
    pub(super) job: Job,
    /// The container that the job concerns, for log and trace.
    pub(super) subject: Option<Subject>,
}

impl Assignment {
    /// Writes the assignment to a file in memory, where a helper can read it. It may have any length, needs no room on a disk, and no
    /// reader has to wait.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub(super) fn pack(&self) -> io::Result<File> {
        let mut file = File::from(rustix::fs::memfd_create("assignment", MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        file.rewind()?;
        Ok(file)
    }

    fn unpack(mut file: File) -> io::Result<Self> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// Executes an assignment, in a process that has just been forked.
pub(super) fn run(daemon: Pid, order: Order, engine: EngineConstructor) -> ! {
    // Takes the number of the zygote's socket. SAFETY: dup2 has no memory effects; no value owns that number in this process.
    if unsafe { nix::libc::dup2(order.report.as_raw_fd(), REPORT_FD) } < 0 {
        exit(1);
    }
    drop(order.report);
    let assignment = prepare(daemon).and_then(|()| Assignment::unpack(order.assignment));
    let report = match &assignment {
        Ok(assignment) => work(assignment, engine),
        Err(error) => Report::Failed(Failure::new(Kind::Internal, error)),
    };
    let said = Said { report: shortened(report), spans: observe::ended() };
    let said = serde_json::to_vec(&said).unwrap_or_default();
    // SAFETY: the pipe is there, and no other value owns that number.
    let mut pipe = unsafe { File::from_raw_fd(REPORT_FD) };
    // A parent that is gone needs no report.
    let _ = pipe.write_all(&said);
    exit(0)
}

/// Ends the process at once.
fn exit(code: i32) -> ! {
    // SAFETY: _exit runs no destructors: the values here belong to the process that this one is a copy of.
    unsafe { nix::libc::_exit(code) }
}

fn work(assignment: &Assignment, engine: EngineConstructor) -> Report {
    let _entered = assignment.subject.as_ref().map(|subject| subject.span().entered());
    if let Some(origin) = assignment.job.origin() {
        observe::follow(origin);
    }
    catch_unwind(AssertUnwindSafe(|| assignment.job.run(engine)))
        .unwrap_or_else(|_| Report::Failed(broken("it panicked; see the log of the shim")))
}

/// Makes a process group, so that the daemon can kill the helper with all processes that it starts.
fn prepare(daemon: Pid) -> io::Result<()> {
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    die_with(daemon)
}

pub(super) fn shortened(report: Report) -> Report {
    match report {
        Report::Failed(Failure { kind, message }) if message.len() > MESSAGE_MAX => {
            let end = message.floor_char_boundary(MESSAGE_MAX);
            Report::Failed(Failure { kind, message: format!("{} […]", &message[..end]) })
        }
        report => report,
    }
}
