//! What the kernel offers to a sandbox.

use std::fs;

use super::Check;

/// The system-call filter, which the compile worker cannot do without.
pub(super) fn seccomp() -> Check {
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            Check::ok("seccomp", "filters are available")
        }
        _ => Check::failed("seccomp", "no filters", "use a kernel with CONFIG_SECCOMP_FILTER"),
    }
}

/// Denial of files by Landlock.
pub(super) fn landlock() -> Check {
    const VERSION: u32 = 1;
    // SAFETY: asked for its version with no attributes (a null pointer of length 0) the call touches no memory of ours and
    // makes nothing.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, VERSION) };
    if version > 0 {
        return Check::ok("Landlock", format!("version {version}"));
    }
    let hint = "the system-call filter keeps the compile worker from files too; a kernel with landlock in `lsm=` adds a \
                second lock";
    Check::warn("Landlock", "not available", hint)
}

/// User namespaces, which only a caller other than root needs.
pub(super) fn user_namespaces() -> Check {
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces").ok().and_then(|text| text.trim().parse().ok());
    match limit {
        Some(0_u64) | None => Check::warn(
            "user namespaces",
            "not available",
            "without them only root compiles behind namespaces; see sysctl user.max_user_namespaces",
        ),
        Some(limit) => Check::ok("user namespaces", format!("up to {limit}")),
    }
}

/// Network namespaces: a compile has one with nothing in it, a pod its own.
pub(super) fn network_namespaces() -> Check {
    if fs::symlink_metadata("/proc/self/ns/net").is_ok() {
        Check::ok("network namespaces", "available")
    } else {
        Check::warn("network namespaces", "not available", "use a kernel with CONFIG_NET_NS")
    }
}
