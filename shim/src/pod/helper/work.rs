//! The helper's side: a fork of the zygote becomes a process of its own, reads what to do, does it, and reports.

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

/// Longest message that goes through the pipe; its buffer holds 64 KiB, and nobody reads before the helper has ended.
pub(super) const MESSAGE_MAX: usize = 16 << 10;

/// All that a helper is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Assignment {
    pub(super) job: Job,
    /// Which container the job concerns, for log and trace.
    pub(super) subject: Option<Subject>,
}

impl Assignment {
    /// Writes it where a helper can read it, however long it is: no disk has to have room, and nobody has to take it meanwhile.
    ///
    /// # Errors
    /// What the system says.
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

/// Does what the order says, in a process that has just been forked.
pub(super) fn run(daemon: Pid, order: Order, engine: EngineConstructor) -> ! {
    // In the place of the zygote's socket.
    // SAFETY: dup2 has no memory effects; nothing owns that number in this process.
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
    // SAFETY: the pipe is there, and nothing else owns that number.
    let mut pipe = unsafe { File::from_raw_fd(REPORT_FD) };
    // A parent that is gone need not be told.
    let _ = pipe.write_all(&said);
    exit(0)
}

/// Ends the process at once.
fn exit(code: i32) -> ! {
    // SAFETY: _exit runs no destructors: what is owned here belongs to the process that this one is a copy of.
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

/// Makes a process group, for whoever has to end the helper and what it starts.
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
