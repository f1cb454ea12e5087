//! Computes the capabilities of a process after exec.
//!
//! A set that a spec leaves out is empty: Go omits empty lists from the JSON. A native program gets its sets from the kernel when it is
//! executed (`capabilities(7)`, "Transformation of capabilities during execve"). A wasm program is never executed, so this module
//! computes the same sets.

use libcontainer::oci_spec::runtime::{Capabilities, LinuxCapabilities, Process};

/// Adds all missing sets of a process, as empty ones.
pub(crate) fn complete(named: Option<&LinuxCapabilities>) -> LinuxCapabilities {
    let set = |of: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
        Some(named.and_then(|named| of(named).clone()).unwrap_or_default())
    };
    let mut complete = LinuxCapabilities::default();
    complete
        .set_bounding(set(LinuxCapabilities::bounding))
        .set_effective(set(LinuxCapabilities::effective))
        .set_permitted(set(LinuxCapabilities::permitted))
        .set_inheritable(set(LinuxCapabilities::inheritable))
        .set_ambient(set(LinuxCapabilities::ambient));
    complete
}

/// Returns the sets of a process after it executes a program without file capabilities. All sets of `process` must be present.
/// `available` is the maximum for a process here.
pub(crate) fn after_exec(process: &Process, available: &Capabilities) -> LinuxCapabilities {
    let before = complete(process.capabilities().as_ref());
    let set = |set: &Option<Capabilities>| set.clone().unwrap_or_default();
    let ambient = set(before.ambient());
    let permitted: Capabilities = if process.user().uid() == 0 {
        // For root every file counts as having all capabilities.
        let gained = set(before.inheritable()).union(&set(before.bounding())).copied().collect::<Capabilities>();
        let limit = if process.no_new_privileges() == Some(true) { set(before.permitted()) } else { available.clone() };
        gained.intersection(&limit).copied().chain(ambient).collect()
    } else {
        ambient
    };
    let mut after = before;
    after.set_effective(Some(permitted.clone())).set_permitted(Some(permitted));
    after
}

#[cfg(test)]
mod tests {
    use libcontainer::oci_spec::runtime::Capability::{self, Chown, Kill, Mknod, NetRaw, SysAdmin};

    use super::*;

    fn process(uid: u32, capabilities: &str, more: &str) -> Process {
        let text = format!(
            r#"{{"cwd":"/","user":{{"uid":{uid},"gid":0}},"args":["x"]{more},"capabilities":{{{capabilities}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn set(list: &[Capability]) -> Option<Capabilities> {
        Some(list.iter().copied().collect())
    }

    const THREE: &str = r#""bounding":["CAP_CHOWN","CAP_KILL","CAP_MKNOD"],"permitted":["CAP_CHOWN","CAP_KILL"],
        "effective":["CAP_CHOWN"]"#;

    /// A missing set is empty, and so are all sets of a process without capabilities.
    #[test]
    fn absent_sets_are_empty() {
        let complete = |json: &str| complete(process(0, json, "").capabilities().as_ref());
        let some = complete(THREE);
        assert_eq!((some.inheritable(), some.ambient()), (&set(&[]), &set(&[])));
        assert_eq!(some.effective(), &set(&[Chown]));
        let none = super::complete(None);
        for empty in [none.bounding(), none.effective(), none.permitted(), none.inheritable(), none.ambient()] {
            assert_eq!(empty, &set(&[]));
        }
        assert_eq!(complete(""), none);
    }

    /// A program of root gets its bounding set, up to the available ones; with `noNewPrivileges` it gains nothing.
    #[test]
    fn root() {
        let available: Capabilities = [Chown, Kill, Mknod, SysAdmin].into();
        let after = after_exec(&process(0, THREE, ""), &available);
        assert_eq!(after.permitted(), &set(&[Chown, Kill, Mknod]));
        assert_eq!(after.effective(), after.permitted());
        assert_eq!(after.bounding(), &set(&[Chown, Kill, Mknod]));
        let after = after_exec(&process(0, THREE, r#","noNewPrivileges":true"#), &available);
        assert_eq!((after.permitted(), after.effective()), (&set(&[Chown, Kill]), &set(&[Chown, Kill])));
        let after = after_exec(&process(0, THREE, ""), &[Chown].into());
        assert_eq!(after.permitted(), &set(&[Chown]));
    }

    /// A program of another user has only its ambient capabilities, and keeps its inheritable ones.
    #[test]
    fn other_users() {
        let available: Capabilities = [Chown, Kill, NetRaw].into();
        let after = after_exec(&process(1000, THREE, ""), &available);
        assert_eq!((after.permitted(), after.effective()), (&set(&[]), &set(&[])));
        let ambient = r#""bounding":["CAP_NET_RAW"],"permitted":["CAP_NET_RAW"],"effective":[],
            "inheritable":["CAP_NET_RAW"],"ambient":["CAP_NET_RAW"]"#;
        let after = after_exec(&process(1000, ambient, ""), &available);
        assert_eq!((after.permitted(), after.effective()), (&set(&[NetRaw]), &set(&[NetRaw])));
        assert_eq!(after.inheritable(), &set(&[NetRaw]));
    }
}
