//! Checks the kernel's support for the sandbox.

use std::fs;

use super::Check;

/// Checks the system-call filter, without which the compile worker does not run.
pub(super) fn seccomp() -> Check {
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            Check::ok("seccomp", "filters are available")
        }
        _ => Check::failed("seccomp", "no filters", "use a kernel with CONFIG_SECCOMP_FILTER"),
    }
}

/// Checks Landlock, which denies access to files.
pub(super) fn landlock() -> Check {
    const VERSION: u32 = 1;
    // SAFETY: the version query takes a null pointer of length 0: the call touches no memory of this process and makes nothing.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, VERSION) };
    if version > 0 {
        return Check::ok("Landlock", format!("version {version}"));
    }
    let hint = "the system-call filter keeps the compile worker from files too; a kernel with landlock in `lsm=` adds a \
                second lock";
    Check::warn("Landlock", "not available", hint)
}

/// Checks user namespaces: a caller other than root compiles in one, and a pod may have its own.
pub(super) fn user_namespaces() -> Check {
    let limit = number("/proc/sys/user/max_user_namespaces");
    // Settings of Debian and of Ubuntu, if they exist.
    let (allowed, restricted) = (
        number("/proc/sys/kernel/unprivileged_userns_clone"),
        number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
    );
    judge_user_namespaces(limit, allowed, restricted)
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn judge_user_namespaces(limit: Option<u64>, allowed: Option<u64>, restricted: Option<u64>) -> Check {
    const NAME: &str = "user namespaces";
    let Some(limit) = limit.filter(|limit| *limit > 0) else {
        let hint = "without user namespaces only root compiles behind namespaces, and no pod has users of its own; see sysctl \
                    user.max_user_namespaces";
        return Check::warn(NAME, "not available", hint);
    };
    let found = format!("up to {limit}");
    let for_root = format!("{found}, for root alone");
    if allowed == Some(0) {
        return Check::warn(
            NAME,
            for_root,
            "other users compile behind namespaces with sysctl kernel.unprivileged_userns_clone=1",
        );
    }
    if restricted.is_some_and(|restricted| restricted > 0) {
        let hint = "other users compile behind namespaces with sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an \
                    AppArmor profile for prewasi that allows `userns`";
        return Check::warn(NAME, for_root, hint);
    }
    Check::ok(NAME, found)
}

/// Checks network namespaces: a compile has an empty one, a pod its own.
pub(super) fn network_namespaces() -> Check {
    if fs::symlink_metadata("/proc/self/ns/net").is_ok() {
        Check::ok("network namespaces", "available")
    } else {
        Check::warn("network namespaces", "not available", "use a kernel with CONFIG_NET_NS")
    }
}

#[cfg(test)]
mod tests {
    use super::super::Health::{Ok as Fine, Warn};
    use super::*;

    /// A node without user namespaces is a warning, and so is one that allows them to root alone.
    #[test]
    fn user_namespaces_are_judged() {
        let health = |limit, allowed, restricted| {
            let check = judge_user_namespaces(limit, allowed, restricted);
            (check.health, check.found)
        };
        let expected = |health, found: &str| (health, found.to_owned());
        assert_eq!(health(Some(7), None, None), expected(Fine, "up to 7"));
        assert_eq!(health(Some(7), Some(1), Some(0)), expected(Fine, "up to 7"));
        assert_eq!(health(Some(7), Some(0), None), expected(Warn, "up to 7, for root alone"));
        assert_eq!(health(Some(7), Some(1), Some(1)), expected(Warn, "up to 7, for root alone"));
        assert_eq!(health(Some(0), None, None), expected(Warn, "not available"));
        assert_eq!(health(None, None, None), expected(Warn, "not available"));
    }
}
