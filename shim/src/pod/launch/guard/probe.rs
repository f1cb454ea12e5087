//! A probe that runs in place of a guest that asks for it, in debug builds alone. It makes each call that the guard denies to a guest,
//! and prints the answers. Its arguments have no effect, should a call be allowed.

use std::ffi::c_long;
use std::fs::File;
use std::io::Error;

use nix::libc;
use prewasi_engines::Guest;

/// Variable with which a guest asks for the probe, and for a kind of attempts.
const VARIABLE: &str = "PREWASI_PROBE";

/// A call, and its name in the output.
type Attempt = (&'static str, c_long, [usize; 6]);

/// Runs the attempts that the guest asks for.
pub(super) fn run(guest: &Guest) -> Option<u8> {
    let (_, wanted) = guest.env.iter().find(|(name, _)| name == VARIABLE)?;
    match wanted.as_str() {
        "calls" => print(&attempts()),
        "other-architecture" => other_architecture(),
        path => open(path),
    }
    Some(0)
}

fn print(attempts: &[Attempt]) {
    for (name, number, [a, b, c, d, e, f]) in attempts {
        // SAFETY: no argument points to memory in use, and some are null; a new process, which the guard denies, ends here.
        let result = unsafe { libc::syscall(*number, *a, *b, *c, *d, *e, *f) };
        if result == 0 && *number == libc::SYS_clone {
            super::super::exit(0);
        }
        write(name, result >= 0);
    }
}

/// Opens a file for reading and for writing, and prints the answers.
fn open(path: &str) {
    write("read", File::open(path).is_ok());
    write("write", File::options().write(true).open(path).is_ok());
}

fn write(name: &str, succeeded: bool) {
    let error = Error::last_os_error().raw_os_error().unwrap_or(0);
    let answer = match error {
        _ if succeeded => "ok".to_owned(),
        libc::ENOSYS => "ENOSYS".to_owned(),
        libc::EPERM => "EPERM".to_owned(),
        libc::EACCES => "EACCES".to_owned(),
        other => format!("error {other}"),
    };
    let line = format!("{name} {answer}\n");
    // SAFETY: the bytes are those of the text, which lives through the call.
    unsafe { libc::write(libc::STDOUT_FILENO, line.as_ptr().cast(), line.len()) };
}

/// Makes a call like a 32-bit program.
fn other_architecture() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: 20 is the number of `getpid` there, which changes only the register of its result.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("eax") 20 => _, options(nostack));
    }
}

fn attempts() -> Vec<Attempt> {
    let mut attempts = memory();
    attempts.extend(programs());
    attempts.extend(kernel());
    attempts.extend(sockets());
    attempts
}

/// Attempts to get executable memory.
fn memory() -> Vec<Attempt> {
    let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    let (read, execute) = (libc::PROT_READ as usize, (libc::PROT_READ | libc::PROT_EXEC) as usize);
    let none = usize::MAX;
    vec![
        ("mmap", libc::SYS_mmap, [0, 4096, read, anonymous, none, 0]),
        ("mmap-executable", libc::SYS_mmap, [0, 4096, execute, anonymous, none, 0]),
        ("mprotect-executable", libc::SYS_mprotect, [0, 0, execute, 0, 0, 0]),
        ("pkey_mprotect", libc::SYS_pkey_mprotect, [0, 0, execute, none, 0, 0]),
        ("remap_file_pages", libc::SYS_remap_file_pages, [0; 6]),
        ("shmget", libc::SYS_shmget, [0, 0, 0, 0, 0, 0]),
        ("shmat", libc::SYS_shmat, [none, 0, 0o100_000, 0, 0, 0]),
        ("memfd_create", libc::SYS_memfd_create, [0; 6]),
        ("memfd_secret", libc::SYS_memfd_secret, [none, 0, 0, 0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [none, 0, 0, 0, 0, 0]),
        ("personality", libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0, 0]),
    ]
}

/// Attempts to reach other programs and processes.
fn programs() -> Vec<Attempt> {
    let (none, nobody) = (usize::MAX, i32::MAX as usize);
    let signal = libc::SIGCHLD as usize;
    let with = |namespace: libc::c_int| [signal | namespace as usize, 0, 0, 0, 0, 0];
    vec![
        ("execve", libc::SYS_execve, [0; 6]),
        ("execveat", libc::SYS_execveat, [none, 0, 0, 0, 0, 0]),
        ("clone-process", libc::SYS_clone, [signal, 0, 0, 0, 0, 0]),
        ("clone-user-namespace", libc::SYS_clone, with(libc::CLONE_NEWUSER)),
        ("clone-mount-namespace", libc::SYS_clone, with(libc::CLONE_NEWNS)),
        ("clone3", libc::SYS_clone3, [0; 6]),
        ("unshare", libc::SYS_unshare, [0; 6]),
        ("setns", libc::SYS_setns, [none, 0, 0, 0, 0, 0]),
        ("ptrace", libc::SYS_ptrace, [libc::PTRACE_PEEKDATA as usize, nobody, 0, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [nobody, 0, 0, 0, 0, 0]),
        ("process_vm_writev", libc::SYS_process_vm_writev, [nobody, 0, 0, 0, 0, 0]),
        ("process_madvise", libc::SYS_process_madvise, [none, 0, 0, 0, 0, 0]),
        ("pidfd_open", libc::SYS_pidfd_open, [nobody, 0, 0, 0, 0, 0]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, [none, 0, 0, 0, 0, 0]),
        ("kcmp", libc::SYS_kcmp, [nobody, nobody, 0, 0, 0, 0]),
        ("tgkill-other", libc::SYS_tgkill, [nobody, nobody, 0, 0, 0, 0]),
        ("kill", libc::SYS_kill, [nobody, 0, 0, 0, 0, 0]),
        ("setpriority", libc::SYS_setpriority, [none, 0, 0, 0, 0, 0]),
        ("prlimit64-other", libc::SYS_prlimit64, [nobody, 0, 0, 0, 0, 0]),
        ("prctl-dumpable", libc::SYS_prctl, [libc::PR_GET_DUMPABLE as usize, 0, 0, 0, 0, 0]),
        ("prctl-capabilities", libc::SYS_prctl, [libc::PR_CAPBSET_READ as usize, 0, 0, 0, 0, 0]),
        ("setuid", libc::SYS_setuid, [none, 0, 0, 0, 0, 0]),
        ("capset", libc::SYS_capset, [0; 6]),
        ("seccomp", libc::SYS_seccomp, [none, 0, 0, 0, 0, 0]),
    ]
}

/// Attempts to use other parts of the kernel.
fn kernel() -> Vec<Attempt> {
    let none = usize::MAX;
    vec![
        ("bpf", libc::SYS_bpf, [none, 0, 0, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0; 6]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [0; 6]),
        ("io_uring_enter", libc::SYS_io_uring_enter, [none, 0, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, [0; 6]),
        ("umount2", libc::SYS_umount2, [0; 6]),
        ("pivot_root", libc::SYS_pivot_root, [0; 6]),
        ("chroot", libc::SYS_chroot, [0; 6]),
        ("open_tree", libc::SYS_open_tree, [none, 0, 0, 0, 0, 0]),
        ("move_mount", libc::SYS_move_mount, [none, 0, none, 0, 0, 0]),
        ("fsopen", libc::SYS_fsopen, [0; 6]),
        ("mount_setattr", libc::SYS_mount_setattr, [none, 0, 0, 0, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [none, 0, 0, 0, 0, 0]),
        ("mknodat", libc::SYS_mknodat, [none, 0, 0, 0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [none, 0, 0, 0, 0, 0]),
        ("add_key", libc::SYS_add_key, [0; 6]),
        ("request_key", libc::SYS_request_key, [0; 6]),
        ("init_module", libc::SYS_init_module, [0; 6]),
        ("finit_module", libc::SYS_finit_module, [none, 0, 0, 0, 0, 0]),
        ("delete_module", libc::SYS_delete_module, [0; 6]),
        ("kexec_load", libc::SYS_kexec_load, [0, none, 0, 0, 0, 0]),
        ("reboot", libc::SYS_reboot, [0; 6]),
        ("quotactl", libc::SYS_quotactl, [none, 0, 0, 0, 0, 0]),
        ("swapon", libc::SYS_swapon, [0; 6]),
        ("syslog", libc::SYS_syslog, [none, 0, 0, 0, 0, 0]),
        ("sethostname", libc::SYS_sethostname, [0, none, 0, 0, 0, 0]),
        ("clock_settime", libc::SYS_clock_settime, [none, 0, 0, 0, 0, 0]),
        ("ioctl-TIOCSTI", libc::SYS_ioctl, [none, libc::TIOCSTI as usize, 0, 0, 0, 0]),
        ("ioctl-TIOCLINUX", libc::SYS_ioctl, [none, 0x541c, 0, 0, 0, 0]),
        ("fcntl-F_SETOWN", libc::SYS_fcntl, [none, libc::F_SETOWN as usize, 0, 0, 0, 0]),
    ]
}

/// Attempts to make sockets.
fn sockets() -> Vec<Attempt> {
    let socket = |family: i32, kind: i32, protocol: i32| [family as usize, kind as usize, protocol as usize, 0, 0, 0];
    vec![
        ("socket-tcp", libc::SYS_socket, socket(libc::AF_INET, libc::SOCK_STREAM, 0)),
        ("socket-udp", libc::SYS_socket, socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)),
        ("socket-raw", libc::SYS_socket, socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP)),
        ("socket-ping", libc::SYS_socket, socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP)),
        ("socket-packet", libc::SYS_socket, socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)),
        ("socket-unix", libc::SYS_socket, socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)),
        ("socket-netlink", libc::SYS_socket, socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)),
        ("socket-alg", libc::SYS_socket, socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
        ("socket-vsock", libc::SYS_socket, socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    ]
}
