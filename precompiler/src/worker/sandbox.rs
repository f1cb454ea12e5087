//! The restrictions that the compile worker applies to itself before it reads the first byte of wasm.
//!
//! A compiler that hostile input has taken over has no descriptor except its input and its output. It has no file system, or an empty
//! private one if the compiler needs it. It has no network, no other process to signal or trace, no privilege, little memory and little
//! time. Each measure is independent of the others. A measure that a kernel may lack (Landlock, namespaces without privilege) is backed
//! by another one.

use std::io::{Error, Result};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    path_beneath_rules,
};
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};
use rustix::process::{Resource, Rlimit, Signal};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

mod files;

/// The user and group `nobody`, who own no files.
const NOBODY: u32 = 65534;
/// The first number of a descriptor that a worker does not need: it needs only the standard ones.
const FIRST_FOREIGN_DESCRIPTOR: u32 = 3;

/// Limits of a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SandboxLimits {
    /// Writable private memory, in bytes.
    pub(crate) memory: u64,
    /// Processor time of all threads, in seconds.
    pub(crate) cpu_seconds: u64,
    /// The worker has a private file system, which may use the same amount of memory in addition.
    pub(crate) files: bool,
}

/// Enters the sandbox, for good. The process must have one thread.
///
/// # Errors
/// The kernel refused a step. Then the caller must not continue.
pub(crate) fn enter(limits: SandboxLimits, parent: i32) -> Result<()> {
    close_descriptors()?;
    if limits.files {
        files::enter(limits.memory)?;
    }
    leave_namespaces();
    drop_privileges()?;
    limit(limits)?;
    // The kernel clears this setting when the user changes, so it comes after that.
    die_with(parent)?;
    deny_files(limits.files)?;
    filter_system_calls(limits.files)
}

fn close_descriptors() -> Result<()> {
    // SAFETY: no value in this process owns a descriptor from 3 on, because the process has only just begun. Descriptors that it
    // inherited by mistake are to be closed.
    let result = unsafe { libc::syscall(libc::SYS_close_range, FIRST_FOREIGN_DESCRIPTOR, u32::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// Enters new namespaces: without network, with private mounts, without other processes' IPC. Without privilege the kernel may refuse;
/// the system-call filter, which allows no socket, holds in any case.
fn leave_namespaces() {
    let wanted =
        CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    let user = if Uid::effective().is_root() { CloneFlags::empty() } else { CloneFlags::CLONE_NEWUSER };
    let _ = nix::sched::unshare(wanted | user);
}

fn drop_privileges() -> Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::nice(10)?;
    if Uid::effective().is_root() {
        caps::clear(None, caps::CapSet::Bounding).map_err(Error::other)?;
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(Gid::from_raw(NOBODY), Gid::from_raw(NOBODY), Gid::from_raw(NOBODY))?;
        nix::unistd::setresuid(Uid::from_raw(NOBODY), Uid::from_raw(NOBODY), Uid::from_raw(NOBODY))?;
    }
    for set in [caps::CapSet::Ambient, caps::CapSet::Inheritable, caps::CapSet::Effective, caps::CapSet::Permitted] {
        caps::clear(None, set).map_err(Error::other)?;
    }
    Ok(())
}

fn limit(limits: SandboxLimits) -> Result<()> {
    let limits = [
        // Counts writable private memory. RLIMIT_AS would also count memory that allocators merely reserve per thread.
        (Resource::Data, limits.memory, limits.memory),
        // SIGXCPU comes first, so that the parent sees the reason; SIGKILL ends a process that ignores it.
        (Resource::Cpu, limits.cpu_seconds, limits.cpu_seconds.saturating_add(5)),
        // A core dump would write a hostile image's bytes to the node's disk.
        (Resource::Core, 0, 0),
        // The output's memory does not count towards the first limit; the memory in which it was made does.
        (Resource::Fsize, limits.memory, limits.memory),
    ];
    for (resource, current, maximum) in limits {
        // A lower limit of this process stays in force.
        let most = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Rlimit { current: Some(current.min(most)), maximum: Some(maximum.min(most)) };
        rustix::process::setrlimit(resource, limit)?;
    }
    Ok(())
}

fn die_with(parent: i32) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid().is_none_or(|pid| pid.as_raw_nonzero().get() != parent) {
        return Err(Error::other("the process that asked for this compile is gone"));
    }
    Ok(())
}

/// Denies all access to files (except in the private file system) and, if the kernel can, TCP, by a Landlock rule set.
fn deny_files(own: bool) -> Result<()> {
    let all = AccessFs::from_all(ABI::V5);
    let denied = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V5)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules(own.then_some("/"), all)))
        .and_then(|rules| rules.restrict_self());
    denied.map(drop).map_err(Error::other)
}

/// Allows the system calls for computing in threads, and answers all others with EPERM.
fn filter_system_calls(files: bool) -> Result<()> {
    let errno = |code: i32| Ok::<_, Error>(SeccompAction::Errno(u32::try_from(code).map_err(Error::other)?));
    // A filter cannot inspect clone3's arguments. The C library falls back to clone if clone3 does not exist.
    apply([(libc::SYS_clone3, Vec::new())], SeccompAction::Allow, errno(libc::ENOSYS)?)?;
    let thread = u64::try_from(libc::CLONE_THREAD).map_err(Error::other)?;
    let threads_only = only_if(0, SeccompCmpOp::MaskedEq(thread), thread)?;
    // All workers of the node have the same user, which could otherwise signal and limit all its processes.
    let own = only_if(0, SeccompCmpOp::Eq, u64::from(std::process::id()))?;
    let itself = only_if(0, SeccompCmpOp::Eq, 0)?;
    let files = if files { files::CALLS } else { &[] };
    let computing = ALLOWED.iter().chain(files).map(|number| (*number, Vec::new()));
    let rules = computing.chain([
        (libc::SYS_clone3, Vec::new()),
        (libc::SYS_clone, vec![threads_only]),
        (libc::SYS_prlimit64, vec![itself]),
        (libc::SYS_tgkill, vec![own]),
    ]);
    apply(rules, errno(libc::EPERM)?, SeccompAction::Allow)
}

/// Allows a call if one of its arguments satisfies a comparison.
fn only_if(argument: u8, comparison: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, comparison, value);
    SeccompRule::new(vec![condition.map_err(Error::other)?]).map_err(Error::other)
}

fn apply(
    rules: impl IntoIterator<Item = (libc::c_long, Vec<SeccompRule>)>,
    otherwise: SeccompAction,
    on_match: SeccompAction,
) -> Result<()> {
    let arch = std::env::consts::ARCH.try_into().map_err(Error::other)?;
    let filter = SeccompFilter::new(rules.into_iter().collect(), otherwise, on_match, arch).map_err(Error::other)?;
    let program: BpfProgram = filter.try_into().map_err(Error::other)?;
    seccompiler::apply_filter(&program).map_err(Error::other)
}

/// Calls for memory, time, threads' synchronisation, and reading and writing open descriptors.
const ALLOWED: [libc::c_long; 38] = [
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_prctl,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_writev,
];

#[cfg(test)]
mod tests;
