//! Tries, from inside the sandbox, the attacks of a compiler that hostile input has taken over.
//!
//! A process cannot leave its sandbox, so each attempt runs in a child: this test binary, started again with [`inside`] alone.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};

use nix::unistd::Uid;

use super::{SandboxLimits, enter};

const ATTEMPT: &str = "PREWASI_TEST_ATTEMPT";
const LIMITS: SandboxLimits = SandboxLimits { memory: 64 << 20, cpu_seconds: 1, files: false };
/// Prefix of attempts that are made with a private file system.
const OWN: &str = "own-";

/// Makes the attempt that the environment names; without one the test passes.
#[test]
#[expect(clippy::disallowed_methods, reason = "the test harness itself could not end properly in a sandbox")]
fn inside() {
    let Ok(attempt) = std::env::var(ATTEMPT) else { return };
    let parent = rustix::process::getppid().expect("a parent").as_raw_nonzero().get();
    enter(SandboxLimits { files: attempt.starts_with(OWN), ..LIMITS }, parent).expect("enter the sandbox");
    std::io::stderr().write_all(b"entered\n").expect("stderr works");
    let result = match attempt.as_str() {
        "nothing" => Ok(()),
        "file" => File::open("/etc/passwd").map(drop),
        "write" => File::create("/tmp/prewasi-sandbox-leak").map(drop),
        "own-files" => use_files(),
        "own-file" => File::open("/etc/passwd").map(drop),
        "own-process" => File::open("/proc/self/mem").map(drop),
        "own-above" => File::open("/../../../etc/passwd").map(drop),
        "own-root" => nix::unistd::chroot("/tmp").map_err(Into::into),
        "own-unix" => UnixStream::pair().map(drop),
        "own-exec" => Command::new("/bin/true").status().map(drop),
        "own-large" => (0..3)
            .try_for_each(|file: u32| std::fs::write(std::env::temp_dir().join(file.to_string()), vec![1; 32 << 20])),
        "tcp" => TcpStream::connect("127.0.0.1:1").map(drop),
        "udp" => UdpSocket::bind("127.0.0.1:0").map(drop),
        "unix" => UnixStream::pair().map(drop),
        "exec" => Command::new("/bin/true").status().map(drop),
        "thread" => std::thread::spawn(|| ()).join().map_err(|_| std::io::Error::other("panic")),
        "kill" => nix::sys::signal::kill(nix::unistd::getppid(), None).map_err(Into::into),
        "signal" => signal(nix::unistd::getppid().as_raw()),
        "signal-self" => signal(nix::unistd::getpid().as_raw()),
        "limit" => limit_of(nix::unistd::getppid().as_raw()),
        "limit-self" => limit_of(0),
        "output" => {
            let mut output = std::io::stdout();
            (0..2).try_for_each(|_| output.write_all(&vec![1; 48 << 20]))
        }
        "root" => nix::unistd::setuid(nix::unistd::Uid::from_raw(0)).map_err(Into::into),
        "trace" => nix::unistd::chroot("/").map_err(Into::into),
        "descriptor" => rustix::io::fcntl_getfd(rustix_fd(9)).map(drop).map_err(Into::into),
        "memory" => {
            drop(std::hint::black_box(vec![1_u8; 256 << 20]));
            Ok(())
        }
        "time" => loop {
            std::hint::black_box(0);
        },
        other => panic!("unknown attempt {other}"),
    };
    std::process::exit(match result {
        Ok(()) => 0,
        Err(error) => {
            let text = format!("{}\n", error.raw_os_error().unwrap_or_default());
            std::io::stderr().write_all(text.as_bytes()).expect("stderr works");
            7
        }
    });
}

/// Uses files as a compiler does.
fn use_files() -> std::io::Result<()> {
    let folder = std::env::temp_dir().join("folder");
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("one"), "content")?;
    std::fs::rename(folder.join("one"), folder.join("other"))?;
    assert_eq!(std::fs::read_to_string(folder.join("other"))?, "content");
    assert_eq!(std::fs::read_dir("/")?.count(), 1, "there is nothing else");
    std::fs::remove_dir_all(&folder)
}

/// Tries whether a process can be signalled.
fn signal(pid: i32) -> std::io::Result<()> {
    // SAFETY: signal 0 only checks the permission.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, 0) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Queries a limit of a process.
fn limit_of(pid: i32) -> std::io::Result<()> {
    // SAFETY: null pointers mean that nothing is written.
    let result = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn rustix_fd(number: i32) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: the test queries the flags of a descriptor that may be closed, and does nothing else with it.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(number) }
}

/// Makes an attempt in a child; returns its exit status, and its output after it had entered the sandbox.
fn attempt(name: &str) -> (ExitStatus, String) {
    attempt_as(None, name)
}

/// The users whose sandbox is tried: the user of the tests and, if that is root, one without privileges.
fn users() -> impl Iterator<Item = Option<u32>> {
    std::iter::once(None).chain(Uid::effective().is_root().then_some(Some(65_533)))
}

fn attempt_as(user: Option<u32>, name: &str) -> (ExitStatus, String) {
    // By this name, because the path may lead through folders that are closed to the user.
    let mut command = Command::new("/proc/self/exe");
    if let Some(user) = user {
        command.uid(user).gid(user).current_dir("/");
    }
    let mut child = command
        .args(["--exact", "worker::sandbox::tests::inside", "--nocapture", "--test-threads=1"])
        .env(ATTEMPT, name)
        .stdin(Stdio::null())
        .stdout(tempfile::tempfile().expect("make an output"))
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the child");
    let mut said = String::new();
    child.stderr.take().expect("stderr").read_to_string(&mut said).expect("read");
    let status = child.wait().expect("wait");
    let (_, rest) = said.split_once("entered\n").unwrap_or_else(|| panic!("{name}: no sandbox was entered: {said}"));
    (status, rest.to_owned())
}

fn assert_denied(name: &str) {
    for user in users() {
        let (status, said) = attempt_as(user, name);
        assert_eq!(status.code(), Some(7), "{name} as {user:?}: {said}");
        let code = said.lines().next_back().unwrap_or_default().parse();
        let code: i32 = code.unwrap_or_else(|_| panic!("{name} as {user:?}: {said}"));
        assert!([libc::EPERM, libc::EACCES, libc::EBADF].contains(&code), "{name} as {user:?}: errno {code}");
    }
}

/// A sandboxed process can start threads and exit normally, so that the denials below are meaningful.
#[test]
fn allows_threads() {
    for (name, user) in ["nothing", "thread"].into_iter().flat_map(|name| users().map(move |user| (name, user))) {
        let (status, said) = attempt_as(user, name);
        assert_eq!(status.code(), Some(0), "{name} as {user:?}: {said}");
    }
}

/// No file can be read or made.
#[test]
fn denies_files() {
    assert_denied("file");
    assert_denied("write");
}

/// With a private file system, a compiler writes and reads files in it, and can reach no others. Without privilege such a file system
/// needs a process with one thread, which a worker is and a test is not.
#[test]
fn own_files_are_all_there_is() {
    if !Uid::effective().is_root() {
        return;
    }
    let (status, said) = attempt("own-files");
    assert_eq!(status.code(), Some(0), "{said}");
    for (name, code) in [
        ("own-file", libc::ENOENT),
        ("own-process", libc::ENOENT),
        ("own-above", libc::ENOENT),
        ("own-exec", libc::EPERM),
        ("own-root", libc::EPERM),
        ("own-unix", libc::EPERM),
        ("own-large", libc::ENOSPC),
    ] {
        let (status, said) = attempt(name);
        assert_eq!(status.code(), Some(7), "{name}: {said}");
        assert_eq!(said.lines().next_back(), Some(code.to_string().as_str()), "{name}: {said}");
    }
}

/// No socket of any family can be made.
#[test]
fn denies_sockets() {
    assert_denied("tcp");
    assert_denied("udp");
    assert_denied("unix");
}

/// No program can be executed, no process signalled, no privilege regained, no other root entered.
#[test]
fn denies_other_processes_and_privileges() {
    assert_denied("exec");
    assert_denied("kill");
    assert_denied("root");
    assert_denied("trace");
}

/// No other process can be signalled or limited, not even one of the same user; all workers have the same user.
#[test]
fn denies_processes_of_the_same_user() {
    assert_denied("signal");
    assert_denied("limit");
    for name in ["signal-self", "limit-self"] {
        let (status, said) = attempt(name);
        assert_eq!(status.code(), Some(0), "{name}: {said}");
    }
}

/// An output that is larger than the memory limit of a compile ends the worker.
#[test]
fn limits_the_output() {
    let (status, said) = attempt("output");
    assert_eq!(status.signal(), Some(libc::SIGXFSZ), "{said}");
}

/// Descriptors that were inherited by mistake are closed.
#[test]
fn closes_descriptors() {
    assert_denied("descriptor");
}

/// Beyond the memory limit the allocator prints its message, which the parent recognises.
#[test]
fn limits_memory() {
    let (status, said) = attempt("memory");
    assert!(!status.success());
    assert!(said.contains("memory allocation of"), "{said}");
}

/// Beyond the limit of processor time the worker ends with SIGXCPU.
#[test]
fn limits_processor_time() {
    let (status, said) = attempt("time");
    assert_eq!(status.signal(), Some(libc::SIGXCPU), "{said}");
}
