//! Checks the kernel's security modules that confine containers by a profile or a label: AppArmor and SELinux.

use std::fs;
use std::path::Path;

use super::Check;

/// Checks both. One of them is sufficient, and neither is required; so only a node without any gets a warning.
pub(super) fn check() -> [Check; 2] {
    check_in(Path::new("/"))
}

fn check_in(root: &Path) -> [Check; 2] {
    let (has_apparmor, has_selinux) = (is_apparmor_on(root), selinux(root).is_some());
    [judge_apparmor(root, has_apparmor, has_selinux), judge_selinux(root, has_apparmor)]
}

fn is_apparmor_on(root: &Path) -> bool {
    let enabled = fs::read_to_string(root.join("sys/module/apparmor/parameters/enabled"));
    enabled.is_ok_and(|text| text.trim() == "Y")
}

/// Returns whether SELinux enforces its policy; `None` if it is off.
fn selinux(root: &Path) -> Option<bool> {
    Some(fs::read_to_string(root.join("sys/fs/selinux/enforce")).ok()?.trim() == "1")
}

fn judge_apparmor(root: &Path, is_on: bool, has_selinux: bool) -> Check {
    const NAME: &str = "AppArmor";
    if !is_on {
        let found = "not enabled";
        return if has_selinux {
            Check::ok(NAME, "not enabled, SELinux is")
        } else {
            Check::warn(NAME, found, "containers have no profile: boot with apparmor (or selinux) in `lsm=`")
        };
    }
    // containerd loads its profile with this program; without it containers get no profile.
    if ["sbin/apparmor_parser", "usr/sbin/apparmor_parser"].iter().any(|path| root.join(path).exists()) {
        Check::ok(NAME, "enabled")
    } else {
        let hint = "install the distribution's package apparmor: without apparmor_parser containerd gives containers no profile";
        Check::warn(NAME, "enabled, but there is no /sbin/apparmor_parser", hint)
    }
}

fn judge_selinux(root: &Path, has_apparmor: bool) -> Check {
    const NAME: &str = "SELinux";
    match selinux(root) {
        Some(true) => Check::ok(NAME, "enforcing"),
        Some(false) => Check::warn(NAME, "permissive", "labels are only logged about: setenforce 1"),
        None if has_apparmor => Check::ok(NAME, "not enabled, AppArmor is"),
        None => Check::ok(NAME, "not enabled"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Health::{self, Ok as Fine, Warn};
    use super::*;

    /// Checks a root that has these files.
    fn checked(files: &[(&str, &str)]) -> [(Health, String); 2] {
        let root = tempfile::tempdir().expect("temp dir");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("it is in a folder")).expect("the folder is ours");
            fs::write(path, text).expect("the folder is ours");
        }
        check_in(root.path()).map(|check| {
            assert_eq!(check.hint.is_some(), check.health != Fine, "{check:?}");
            (check.health, check.found)
        })
    }

    const APPARMOR: (&str, &str) = ("sys/module/apparmor/parameters/enabled", "Y\n");
    const PARSER: (&str, &str) = ("sbin/apparmor_parser", "");

    /// One module is sufficient; none is a warning, and so is one that cannot do its work.
    #[test]
    fn modules_are_judged() {
        let both = |apparmor: (Health, &str), selinux: (Health, &str)| {
            [apparmor, selinux].map(|(health, found)| (health, found.to_owned()))
        };
        let off = "not enabled";
        assert_eq!(checked(&[]), both((Warn, off), (Fine, off)));
        assert_eq!(checked(&[(APPARMOR.0, "N\n")]), both((Warn, off), (Fine, off)));
        assert_eq!(checked(&[APPARMOR, PARSER]), both((Fine, "enabled"), (Fine, "not enabled, AppArmor is")));
        let crippled = "enabled, but there is no /sbin/apparmor_parser";
        assert_eq!(checked(&[APPARMOR]), both((Warn, crippled), (Fine, "not enabled, AppArmor is")));
        let selinux = |text| ("sys/fs/selinux/enforce", text);
        assert_eq!(checked(&[selinux("1")]), both((Fine, "not enabled, SELinux is"), (Fine, "enforcing")));
        assert_eq!(checked(&[selinux("0")]), both((Fine, "not enabled, SELinux is"), (Warn, "permissive")));
    }
}
