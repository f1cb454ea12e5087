//! Runs a container's hook. libcontainer starts this wrapper instead of the hook, which adds three things. The state that the hook reads
//! has the container's own bundle: libcontainer builds from another folder, with an adapted spec. The hook runs in the mount namespace
//! that it belongs to. If it fails, the client gets its name, its exit status and its output.
//!
//! A hook also makes a missing working directory, which libcontainer does not. Only a hook runs in the container's namespaces after all
//! mounts.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, RawFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use prewasi_precompiler::chain;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, ResolveFlags, mkdirat, open, openat2};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal, umask};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::telemetry::reasons::Note;

/// Longest state that is read, in bytes; it holds the annotations of a container.
const STATE_MAX: u64 = 16 << 20;
/// Longest output of a hook that is reported, in bytes.
const SAID_MAX: usize = 2 << 10;

/// The task of a hook, as it is in the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Call {
    /// Descriptor of the file for reasons, if there is one.
    pub(crate) reasons: Option<RawFd>,
    pub(crate) work: Work,
}

/// The work of a hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Run a program.
    Run {
        /// The container's own bundle.
        bundle: PathBuf,
        /// The mount namespace in which it runs, if it differs from the current one.
        namespace: Option<PathBuf>,
        path: PathBuf,
        /// Its arguments, its name first.
        args: Vec<String>,
        /// Time limit in seconds.
        timeout: Option<i64>,
    },
    /// Make a folder and its parents in a root filesystem.
    Folder { root: PathBuf, path: PathBuf },
}

/// The reason why a hook cannot be run, or has failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    #[error("cannot run a hook: the command line is malformed; only the shim itself writes it")]
    Usage,
    #[error("cannot read the state of the container for hook {}", path.display())]
    State {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot run hook {}", path.display())]
    Run {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("hook {} {how}{said}", path.display())]
    Failed { path: PathBuf, how: String, said: String },
    #[error("cannot make working directory {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Does the task in the argument, and reports a failure.
///
/// # Errors
/// [`HookError`].
pub(crate) fn run(argument: Option<&str>) -> Result<(), HookError> {
    let call: Call = argument.and_then(|text| serde_json::from_str(text).ok()).ok_or(HookError::Usage)?;
    // SAFETY: the descriptor is inherited from the helper, and nothing closes it.
    let reasons = call.reasons.map(|number| unsafe { BorrowedFd::borrow_raw(number) });
    if let Some(reasons) = reasons {
        // The hook itself does not need it. If the descriptor is not open, there is nothing to protect.
        let _ = fcntl_setfd(reasons, FdFlags::CLOEXEC);
    }
    let done = match call.work {
        Work::Folder { root, path } => {
            make_folder(&root, &path).map_err(|error| HookError::Folder { path, source: error.into() })
        }
        Work::Run { bundle, namespace, path, args, timeout } => {
            let program = Program { path, args, timeout };
            program.run(&bundle, namespace.as_deref())
        }
    };
    done.inspect_err(|error| {
        if let Some(reasons) = reasons {
            // The error is on standard error, too.
            let _ = Note::complete(chain(error)).add_to(reasons);
        }
    })
}

/// A hook's program.
struct Program {
    path: PathBuf,
    args: Vec<String>,
    timeout: Option<i64>,
}

impl Program {
    fn run(self, bundle: &Path, namespace: Option<&Path>) -> Result<(), HookError> {
        let state = state(bundle).map_err(|source| HookError::State { path: self.path.clone(), source })?;
        let cannot = |source| HookError::Run { path: self.path.clone(), source };
        if let Some(namespace) = namespace {
            File::open(namespace).and_then(|file| Ok(setns(file, CloneFlags::CLONE_NEWNS)?)).map_err(cannot)?;
        }
        let mut said = in_memory("stderr").map_err(cannot)?;
        let child = said.try_clone().and_then(|stderr| self.start(state, stderr)).map_err(cannot)?;
        let ended = self.wait(child).map_err(cannot)?;
        let mut text = Vec::new();
        let read = said.rewind().and_then(|()| said.read_to_end(&mut text));
        // The hook's output goes to the log, as without this wrapper.
        let _ = read.and_then(|_| io::stderr().write_all(&text));
        match ended {
            Some(status) if status.success() => Ok(()),
            ended => Err(HookError::Failed { how: self.how(ended), said: told(&text), path: self.path }),
        }
    }

    fn start(&self, state: File, stderr: File) -> io::Result<Child> {
        let mut command = Command::new(&self.path);
        let (name, args) = self.args.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        command.arg0(name).args(args).stdin(Stdio::from(state)).stderr(Stdio::from(stderr));
        // SAFETY: the closure makes one system call.
        unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
        command.spawn()
    }

    /// Waits for the program's end; `None` if the time limit has passed and it was killed.
    fn wait(&self, mut child: Child) -> io::Result<Option<ExitStatus>> {
        if let Some(seconds) = self.timeout {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
            let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
            let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
            if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit))? == 0 {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
        }
        child.wait().map(Some)
    }

    fn how(&self, ended: Option<ExitStatus>) -> String {
        match ended {
            None => format!("was ended: it ran for longer than {} s", self.timeout.unwrap_or(0)),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("has failed with exit code {code}"),
                (None, signal) => format!("has failed: signal {} ended it", signal.unwrap_or(0)),
            },
        }
    }
}

/// Returns the end of a hook's output, as a suffix of a message.
fn told(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text = text.trim();
    let start = text.ceil_char_boundary(text.len().saturating_sub(SAID_MAX));
    match &text[start..] {
        "" => String::new(),
        end if start == 0 => format!(": {end}"),
        end => format!(": […] {end}"),
    }
}

/// Reads the state from standard input and returns it as a file, with the bundle replaced.
fn state(bundle: &Path) -> io::Result<File> {
    let mut text = Vec::new();
    io::stdin().lock().take(STATE_MAX).read_to_end(&mut text)?;
    let mut state: Value = serde_json::from_slice(&text)?;
    state["bundle"] = serde_json::json!(bundle);
    let mut file = in_memory("state.json")?;
    file.write_all(&serde_json::to_vec(&state)?)?;
    file.rewind()?;
    Ok(file)
}

fn in_memory(name: &str) -> io::Result<File> {
    Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

/// Makes a folder and its parents in a root filesystem. Links on the path resolve as in the container.
fn make_folder(root: &Path, path: &Path) -> Result<(), Errno> {
    umask(Mode::from_raw_mode(0o022));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(root, flags, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let enter = |path: &Path| openat2(root.as_fd(), path, flags, Mode::empty(), resolve);
    let mut above = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => {
                let next = above.join(name);
                match enter(&next) {
                    Err(Errno::NOENT) => mkdirat(enter(&above)?, name, Mode::from_raw_mode(0o755))?,
                    found => drop(found?),
                }
                above = next;
            }
            // The parent of a link's target differs from the parent of the link.
            Component::ParentDir => above.push(".."),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// Folders are made inside the root filesystem, wherever its links lead; a file in the path is an error.
    #[test]
    fn folders_are_made_inside() {
        let folder = std::env::temp_dir().join(format!("prewasi-hook-{}", std::process::id()));
        let root = folder.join("root");
        fs::create_dir_all(root.join("real")).unwrap();
        symlink("/real", root.join("link")).unwrap();
        symlink("../../..", root.join("up")).unwrap();
        symlink("/nowhere", root.join("dangling")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let make = |path: &str| make_folder(&root, Path::new(path));
        for (path, made) in [("/a/b/c", "a/b/c"), ("/link/x", "real/x"), ("/up/y", "y"), ("/link/../z", "z"), ("/", "")]
        {
            make(path).unwrap();
            make(path).unwrap();
            assert_eq!(fs::symlink_metadata(root.join(made)).unwrap().permissions().mode(), 0o40755, "{path}");
        }
        assert!(!folder.join("y").exists());
        assert_eq!(make("/file/x"), Err(Errno::NOTDIR));
        assert_eq!(make("/file"), Err(Errno::NOTDIR));
        assert_eq!(make("/dangling"), Err(Errno::EXIST));
        fs::remove_dir_all(folder).unwrap();
    }

    /// The error of a failed hook has the end of its output and its exit status; a hook that hangs is killed.
    #[test]
    fn failures_are_told() {
        let run = |script: &str, timeout| {
            let args = ["sh", "-c", script].map(str::to_owned).to_vec();
            let program = Program { path: "/bin/sh".into(), args, timeout };
            let said = in_memory("said").unwrap();
            let child = program.start(in_memory("state").unwrap(), said).unwrap();
            let ended = program.wait(child).unwrap();
            program.how(ended)
        };
        assert_eq!(run("exit 3", None), "has failed with exit code 3");
        assert_eq!(run("kill -9 $$", Some(9)), "has failed: signal 9 ended it");
        assert_eq!(run("exec sleep 9", Some(0)), "was ended: it ran for longer than 0 s");
        assert_eq!(told(b" \n"), "");
        assert_eq!(told(b"no such thing\n"), ": no such thing");
        assert!(told(&[b'x'; 9999]).starts_with(": […] x"));
    }
}
