//! The system calls that a guest's process may make. They are the recorded calls of all engines (`guard/recorded.txt`), and their
//! equivalents for another C library, kernel or processor.
//!
//! The list contains allowed calls: a list of forbidden calls could not know those of future kernels. `docs/security.md` has the same
//! list as a table.

use nix::libc::{self, c_long};

use super::Needs;

/// A call, and the arguments that it may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    #[cfg_attr(not(test), expect(dead_code, reason = "compared with the record and the documentation"))]
    pub(super) name: &'static str,
    pub(super) number: c_long,
    /// Checks of arguments; all of them must hold.
    pub(super) checks: &'static [Check],
}

/// A check of one argument: after masking it must equal one of the values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Check {
    pub(super) argument: u32,
    pub(super) mask: u32,
    pub(super) values: &'static [u32],
}

/// Calls with a common purpose.
pub(super) struct Group {
    /// The purpose, as the documentation has it.
    #[cfg_attr(not(test), expect(dead_code, reason = "compared with the documentation"))]
    pub(super) title: &'static str,
    pub(super) calls: &'static [Call],
}

impl Call {
    /// Returns the call's name.
    #[cfg(test)]
    pub(super) fn plain_name(&self) -> &'static str {
        self.name.strip_prefix("SYS_").unwrap_or(self.name)
    }
}

const fn is(argument: u32, values: &'static [u32]) -> Check {
    masked(argument, u32::MAX, values)
}

const fn masked(argument: u32, mask: u32, values: &'static [u32]) -> Check {
    Check { argument, mask, values }
}

macro_rules! calls {
    ($($name:ident $(($($check:expr),+))?),* $(,)?) => {
        &[$(Call { name: stringify!($name), number: libc::$name, checks: &[$($($check),+)?] }),*]
    };
}

/// Placeholder for the pid of this process.
pub(super) const OWN: u32 = u32::MAX;
/// Memory that is not executable.
const NOT_EXECUTABLE: Check = masked(2, libc::PROT_EXEC as u32, &[0]);
/// All flags that make new namespaces.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;
const THREAD: u32 = libc::CLONE_THREAD as u32;
/// `PR_SET_VMA`, with which a C library names memory.
const PR_SET_VMA: u32 = 0x5356_4d41;
/// `TCGETS2`, with which a newer C library checks for a terminal.
const TCGETS2: u32 = 0x802c_542a;
/// `PAGEMAP_SCAN`, with which wasmtime's pool finds the written pages.
const PAGEMAP_SCAN: u32 = 0xc060_6610;

const MEMORY: Group = Group {
    title: "memory",
    calls: calls![
        SYS_brk,
        SYS_madvise,
        SYS_membarrier,
        SYS_mmap(NOT_EXECUTABLE),
        SYS_mprotect(NOT_EXECUTABLE),
        SYS_mremap,
        SYS_munmap,
    ],
};

const THREADS: Group = Group {
    title: "threads, time, itself",
    calls: calls![
        SYS_clock_getres,
        SYS_clock_gettime,
        SYS_clock_nanosleep,
        SYS_exit,
        SYS_exit_group,
        SYS_futex,
        SYS_getcpu,
        SYS_getegid,
        SYS_geteuid,
        SYS_getgid,
        SYS_getpid,
        SYS_getppid,
        SYS_getrandom,
        SYS_getrusage,
        SYS_gettid,
        SYS_gettimeofday,
        SYS_getuid,
        SYS_nanosleep,
        SYS_prctl(is(0, &[libc::PR_SET_NAME as u32, libc::PR_GET_NAME as u32, PR_SET_VMA])),
        // Of this process alone.
        SYS_prlimit64(is(0, &[0])),
        SYS_restart_syscall,
        SYS_rseq,
        SYS_rt_sigaction,
        SYS_rt_sigprocmask,
        SYS_rt_sigreturn,
        SYS_sched_getaffinity,
        SYS_sched_yield,
        SYS_set_robust_list,
        SYS_set_tid_address,
        SYS_setitimer,
        SYS_sigaltstack,
        SYS_sysinfo,
        SYS_tgkill(is(0, &[OWN])),
        SYS_uname,
    ],
};

const NEW_THREADS: Group =
    Group { title: "new threads", calls: calls![SYS_clone(masked(0, NAMESPACES | THREAD, &[THREAD]))] };

const WAITING: Group = Group {
    title: "waiting",
    calls: calls![
        SYS_epoll_create1,
        SYS_epoll_ctl,
        SYS_epoll_pwait,
        SYS_epoll_pwait2,
        SYS_eventfd2,
        SYS_ppoll,
        SYS_pselect6,
        SYS_timerfd_create,
        SYS_timerfd_settime,
    ],
};

const DESCRIPTORS: Group = Group {
    title: "what is open",
    calls: calls![
        SYS_close,
        SYS_close_range,
        SYS_dup,
        SYS_dup3,
        SYS_fadvise64,
        SYS_fallocate,
        SYS_fcntl(is(
            1,
            &[
                libc::F_DUPFD as u32,
                libc::F_DUPFD_CLOEXEC as u32,
                libc::F_GETFD as u32,
                libc::F_SETFD as u32,
                libc::F_GETFL as u32,
                libc::F_SETFL as u32,
                libc::F_GETLK as u32,
                libc::F_SETLK as u32,
                libc::F_SETLKW as u32,
                libc::F_OFD_GETLK as u32,
                libc::F_OFD_SETLK as u32,
                libc::F_OFD_SETLKW as u32,
            ]
        )),
        SYS_fdatasync,
        SYS_flock,
        SYS_fstat,
        SYS_fstatfs,
        SYS_fsync,
        SYS_ftruncate,
        SYS_getdents64,
        SYS_ioctl(is(
            1,
            &[
                libc::TCGETS as u32,
                TCGETS2,
                libc::TIOCGWINSZ as u32,
                libc::FIONBIO as u32,
                libc::FIONREAD as u32,
                libc::FIOCLEX as u32,
                libc::FIONCLEX as u32,
                PAGEMAP_SCAN,
            ]
        )),
        SYS_lseek,
        SYS_pipe2,
        SYS_pread64,
        SYS_preadv,
        SYS_preadv2,
        SYS_pwrite64,
        SYS_pwritev,
        SYS_pwritev2,
        SYS_read,
        SYS_readv,
        SYS_write,
        SYS_writev,
    ],
};

const FILES: Group = Group {
    title: "files by path",
    calls: calls![
        SYS_faccessat,
        SYS_faccessat2,
        SYS_fchmod,
        SYS_getcwd,
        SYS_linkat,
        SYS_mkdirat,
        SYS_newfstatat,
        SYS_openat,
        SYS_openat2,
        SYS_readlinkat,
        SYS_renameat2,
        SYS_statfs,
        SYS_statx,
        SYS_symlinkat,
        SYS_truncate,
        SYS_unlinkat,
        SYS_utimensat,
    ],
};

/// Calls that newer processors do not have.
#[cfg(target_arch = "x86_64")]
const OLDER: Group = Group {
    title: "older forms of these",
    calls: calls![
        SYS_access,
        SYS_alarm,
        SYS_dup2,
        SYS_epoll_wait,
        SYS_getrlimit,
        SYS_link,
        SYS_lstat,
        SYS_mkdir,
        SYS_open,
        SYS_pipe,
        SYS_poll,
        SYS_readlink,
        SYS_rename,
        SYS_renameat,
        SYS_rmdir,
        SYS_select,
        SYS_stat,
        SYS_symlink,
        SYS_time,
        SYS_unlink,
    ],
};
/// The only such call of this processor; `libc` has no name for it.
#[cfg(target_arch = "aarch64")]
const OLDER: Group =
    Group { title: "older forms of these", calls: &[Call { name: "SYS_renameat", number: 38, checks: &[] }] };

const PAIRS: Group = Group {
    title: "sockets that are there, and pairs",
    calls: calls![
        SYS_accept4,
        SYS_getpeername,
        SYS_getsockname,
        SYS_getsockopt,
        SYS_recvfrom,
        SYS_recvmsg,
        SYS_sendmsg,
        SYS_sendto,
        SYS_shutdown,
        // Connected for good: a path could redirect a datagram socket.
        SYS_socketpair(
            is(0, &[libc::AF_UNIX as u32]),
            masked(1, 0xff, &[libc::SOCK_STREAM as u32, libc::SOCK_SEQPACKET as u32])
        ),
    ],
};

const NETWORK: Group = Group {
    title: "with a network: sockets",
    calls: calls![
        SYS_accept,
        SYS_bind,
        SYS_connect,
        SYS_listen,
        SYS_sendmmsg,
        SYS_setsockopt(is(
            1,
            &[
                libc::SOL_SOCKET as u32,
                libc::IPPROTO_IP as u32,
                libc::IPPROTO_IPV6 as u32,
                libc::IPPROTO_TCP as u32,
                libc::IPPROTO_UDP as u32,
            ]
        )),
        SYS_socket(
            is(0, &[libc::AF_INET as u32, libc::AF_INET6 as u32]),
            // The type without its flags.
            masked(1, 0xff, &[libc::SOCK_STREAM as u32, libc::SOCK_DGRAM as u32]),
            is(2, &[0, libc::IPPROTO_TCP as u32, libc::IPPROTO_UDP as u32])
        ),
    ],
};

const PROCESSES: Group = Group {
    title: "servers: processes of the server",
    calls: calls![
        SYS_clone(masked(0, NAMESPACES, &[0])),
        SYS_prctl(is(
            0,
            &[libc::PR_SET_NAME as u32, libc::PR_GET_NAME as u32, PR_SET_VMA, libc::PR_SET_PDEATHSIG as u32]
        )),
        SYS_tgkill,
        SYS_wait4,
        SYS_waitid,
    ],
};

/// Lists the applicable groups. If two groups have the same call, the later group's entry counts.
pub(super) fn groups(needs: Needs) -> Vec<Group> {
    let mut groups = vec![MEMORY, THREADS, NEW_THREADS, WAITING, DESCRIPTORS, FILES, OLDER, PAIRS];
    groups.extend(needs.network.then_some(NETWORK));
    groups.extend(needs.processes.then_some(PROCESSES));
    groups
}

/// Lists the allowed calls, each once.
pub(super) fn allowed(needs: Needs) -> Vec<Call> {
    let mut calls: Vec<Call> = groups(needs).iter().rev().flat_map(|group| group.calls).copied().collect();
    // The sort is stable, so the first of several entries is kept.
    calls.sort_by_key(|call| call.number);
    calls.dedup_by_key(|call| call.number);
    calls
}

#[cfg(test)]
mod tests;
