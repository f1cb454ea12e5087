//! Attributes that an exec process takes from its container if the request leaves them out. runc takes the same ones. dockerd's requests
//! have none of them.

use libcontainer::oci_spec::runtime::Process;

/// Fills the gaps of a request from the container's own process.
pub(super) fn inherit(process: &mut Process, own: &Process) {
    let missing = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    if process.capabilities().is_none() {
        process.set_capabilities(own.capabilities().clone());
    }
    if missing(process.apparmor_profile()) {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if missing(process.selinux_label()) {
        process.set_selinux_label(own.selinux_label().clone());
    }
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(own.oom_score_adj());
    }
    if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
        process.set_rlimits(own.rlimits().clone());
    }
    if process.io_priority().is_none() {
        process.set_io_priority(*own.io_priority());
    }
    if process.scheduler().is_none() {
        process.set_scheduler(own.scheduler().clone());
    }
    if process.exec_cpu_affinity().is_none() {
        process.set_exec_cpu_affinity(own.exec_cpu_affinity().clone());
    }
    if process.user().umask().is_none() {
        process.user_mut().set_umask(own.user().umask());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(umask: &str, more: &str) -> Process {
        let text = format!(r#"{{"cwd":"/","user":{{"uid":1,"gid":1{umask}}}{more}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    const OWN: &str = r#","oomScoreAdj":500,"rlimits":[{"type":"RLIMIT_CORE","soft":0,"hard":0}],"apparmorProfile":"p",
        "selinuxLabel":"l","ioPriority":{"class":"IOPRIO_CLASS_IDLE","priority":1},"scheduler":{"policy":"SCHED_BATCH"},
        "execCPUAffinity":{"initial":"0"},"capabilities":{"bounding":["CAP_KILL"]},"noNewPrivileges":true,"args":["x"]"#;

    /// An attribute that the request leaves out is the container's; the others stay.
    #[test]
    fn gaps_are_filled() {
        let own = process(r#","umask":63"#, OWN);
        let mut bare = process("", r#","apparmorProfile":"","rlimits":[]"#);
        inherit(&mut bare, &own);
        let mut expected = own.clone();
        expected.set_no_new_privileges(None).set_args(None);
        assert_eq!(bare, expected);

        let asked = r#","oomScoreAdj":1,"rlimits":[{"type":"RLIMIT_CORE","soft":1,"hard":1}],"apparmorProfile":"q",
            "selinuxLabel":"m","ioPriority":{"class":"IOPRIO_CLASS_BE","priority":2},"scheduler":{"policy":"SCHED_OTHER"},
            "execCPUAffinity":{"initial":"1"},"capabilities":{}"#;
        let full = process(r#","umask":18"#, asked);
        let mut same = full.clone();
        inherit(&mut same, &own);
        assert_eq!(same, full);
    }
}
