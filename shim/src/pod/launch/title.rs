//! Sets `/proc/PID/cmdline` and `/proc/PID/environ` of a process that is not executed: its arguments and its environment.
//!
//! Otherwise they would show the daemon's: containerd's socket, paths of the node, the daemon's environment. The kernel reads both from
//! the memory of the process, between addresses that it recorded at `execve(2)` and that `prctl(2)` changes. A helper sets the arguments
//! before it makes a process that a container could see. The process itself sets its environment. Until then no process in a container
//! can read it, because these processes are not dumpable.

use std::fs;
use std::io;
use std::ptr::{self, null_mut};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
use rustix::process::{PrctlMmMap, configure_virtual_memory_map};

/// A range of addresses, from the first byte to after the last one.
type Range = (u64, u64);

/// Arguments and environment in memory that is never freed, and the kernel's addresses of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Title {
    args: Range,
    env: Range,
    noted: Noted,
}

/// The kernel's addresses, the same in each forked process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Noted {
    code: Range,
    data: Range,
    brk: u64,
    stack: u64,
    args: Range,
    env: Range,
}

impl Title {
    /// Copies arguments and environment into memory of this process, which its forks inherit.
    ///
    /// # Errors
    /// The system's error.
    pub(super) fn new<'a>(
        args: impl Iterator<Item = &'a str>,
        env: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> io::Result<Self> {
        let noted = Noted::parse(&fs::read_to_string("/proc/self/stat")?).ok_or(io::ErrorKind::InvalidData)?;
        let mut bytes: Vec<u8> = args.flat_map(|arg| arg.bytes().chain([0])).collect();
        let env_at = bytes.len();
        bytes.extend(env.flat_map(|(name, value)| name.bytes().chain([b'=']).chain(value.bytes()).chain([0])));
        let length = bytes.len().max(1);
        // SAFETY: new memory without other users; `bytes` fits into it, and it is never unmapped.
        let start = unsafe {
            let start = mmap_anonymous(null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?;
            ptr::copy_nonoverlapping(bytes.as_ptr(), start.cast(), bytes.len());
            mprotect(start, length, MprotectFlags::READ)?;
            start as u64
        };
        let (env_start, end) = (start + env_at as u64, start + bytes.len() as u64);
        Ok(Self { args: (start, env_start), env: (env_start, end), noted })
    }

    /// Shows the arguments from now on.
    ///
    /// # Errors
    /// The system's error: kernels without `CONFIG_CHECKPOINT_RESTORE` cannot do it.
    pub(super) fn show_arguments(&self) -> io::Result<()> {
        set(Noted { args: self.args, ..self.noted })
    }

    /// Shows arguments and environment from now on.
    pub(super) fn show(&self) {
        if set(Noted { args: self.args, env: self.env, ..self.noted }).is_err() {
            self.overwrite();
        }
    }

    /// Overwrites the arguments that the kernel shows, up to their length, and erases the environment. This process must not use its
    /// environment afterwards.
    fn overwrite(&self) {
        let length = |(start, end): Range| usize::try_from(end.saturating_sub(start)).unwrap_or(0);
        let (room, shown) = (length(self.noted.args), length(self.args));
        if room == 0 {
            return;
        }
        let count = shown.min(room - 1);
        // SAFETY: the kernel has put arguments and environment of this process there, in writable memory. Rust's strings of them are
        // copies, and pointers to variables find empty ones.
        unsafe {
            ptr::write_bytes(self.noted.args.0 as *mut u8, 0, room);
            ptr::copy_nonoverlapping(self.args.0 as *const u8, self.noted.args.0 as *mut u8, count);
            ptr::write_bytes(self.noted.env.0 as *mut u8, 0, length(self.noted.env));
        }
    }
}

impl Noted {
    /// Parses the addresses from `/proc/self/stat`.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<u64> =
            stat.rsplit_once(") ")?.1.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        // proc(5) counts from 1, and the first two fields are before the parenthesis.
        let field = |number: usize| fields.get(number - 3).copied();
        let range = |number: usize| Some((field(number)?, field(number + 1)?));
        Some(Self {
            code: range(26)?,
            stack: field(28)?,
            data: range(45)?,
            brk: field(47)?,
            args: range(48)?,
            env: range(50)?,
        })
    }
}

/// Sets the kernel's addresses.
fn set(noted: Noted) -> io::Result<()> {
    // SAFETY: sbrk with 0 only returns the end of its memory.
    let brk = unsafe { nix::libc::sbrk(0) } as u64;
    let map = PrctlMmMap {
        start_code: noted.code.0,
        end_code: noted.code.1,
        start_data: noted.data.0,
        end_data: noted.data.1,
        start_brk: noted.brk,
        brk,
        start_stack: noted.stack,
        arg_start: noted.args.0,
        arg_end: noted.args.1,
        env_start: noted.env.0,
        env_end: noted.env.1,
        auxv: null_mut(),
        auxv_size: 0,
        exe_fd: -1,
    };
    // SAFETY: only the addresses of arguments and environment change, and the kernel only shows these two.
    Ok(unsafe { configure_virtual_memory_map(&map) }?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const ASKED: &str = "PREWASI_TEST_TITLE";

    fn shown() -> (Vec<u8>, Vec<u8>) {
        (fs::read("/proc/self/cmdline").unwrap(), fs::read("/proc/self/environ").unwrap())
    }

    fn title() -> Title {
        Title::new(["/a.wasm", "", "x y"].into_iter(), [("A", "1"), ("B", "")].into_iter()).unwrap()
    }

    /// Runs a test of this module again in a separate process, whose title may change.
    fn apart(name: &str) {
        let mut again = Command::new("/proc/self/exe");
        again.args(["--exact", &format!("executor::title::tests::{name}")]).env(ASKED, "1");
        let output = again.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    /// Arguments and environment are shown unchanged, also empty ones, the arguments first.
    #[test]
    fn titles_are_shown() {
        if std::env::var_os(ASKED).is_none() {
            return apart("titles_are_shown");
        }
        let before = shown();
        title().show_arguments().unwrap();
        assert_eq!(shown(), (b"/a.wasm\0\0x y\0".to_vec(), before.1));
        title().show();
        assert_eq!(shown(), (b"/a.wasm\0\0x y\0".to_vec(), b"A=1\0B=\0".to_vec()));
    }

    /// If the kernel cannot change the addresses, none of the former content can be seen.
    #[test]
    fn titles_are_written_over() {
        if std::env::var_os(ASKED).is_none() {
            return apart("titles_are_written_over");
        }
        title().overwrite();
        let (cmdline, environ) = shown();
        assert!(cmdline.starts_with(b"/a.wasm\0\0x y\0"));
        assert!(cmdline[13..].iter().chain(&environ).all(|byte| *byte == 0));
    }

    /// A program's name may contain spaces and parentheses.
    #[test]
    fn names_do_not_confuse() {
        let numbers = (3..=51).map(|number| number.to_string()).collect::<Vec<_>>().join(" ");
        let noted = Noted::parse(&format!("7 (a) b) {numbers}\n")).unwrap();
        let expected = Noted { code: (26, 27), stack: 28, data: (45, 46), brk: 47, args: (48, 49), env: (50, 51) };
        assert_eq!(noted, expected);
        assert_eq!(Noted::parse("7 (a) S 1 2"), None);
    }
}
