//! The calls that the process of a guest may not make: a program in the guest's place, which debug builds have, tries them from inside.
//! Also the calls that the guests of each engine make, which are the allowed ones.

use std::collections::BTreeSet;
use std::fs;

use prewasi_test::calls::{self, Tracer};
use prewasi_test::guests::{DEMO, WASI, WEB};
use prewasi_test::image::{self, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};
use serde_json::json;

use crate::running::ticking;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(calls_are_refused_to_a_container),
        case!(calls_are_refused_to_a_process),
        case!(calls_are_refused_without_a_network),
        case!(server_may_have_processes),
        case!(calls_of_another_architecture_end_the_guest),
        case!(filter_that_forbids_filters_is_named),
        case!(folders_are_closed, needs Landlock),
        case!(guests_call_what_was_recorded, needs Strace),
    ]
}

/// Each call that is tried, and its answer.
const ANSWERS: &str = "
mmap ok, mmap-executable EPERM, mprotect-executable EPERM, pkey_mprotect ENOSYS, remap_file_pages ENOSYS, shmget ENOSYS,
shmat ENOSYS, memfd_create ENOSYS, memfd_secret ENOSYS, userfaultfd ENOSYS, personality ENOSYS,
execve ENOSYS, execveat ENOSYS, clone-process EPERM, clone-user-namespace EPERM, clone-mount-namespace EPERM, clone3 ENOSYS,
unshare ENOSYS, setns ENOSYS, ptrace ENOSYS, process_vm_readv ENOSYS, process_vm_writev ENOSYS, process_madvise ENOSYS,
pidfd_open ENOSYS, pidfd_getfd ENOSYS, kcmp ENOSYS, tgkill-other EPERM, kill ENOSYS, setpriority ENOSYS, prlimit64-other EPERM,
prctl-dumpable EPERM, prctl-capabilities EPERM, setuid ENOSYS, capset ENOSYS, seccomp ENOSYS,
bpf ENOSYS, perf_event_open ENOSYS, io_uring_setup ENOSYS, io_uring_enter ENOSYS, mount ENOSYS, umount2 ENOSYS,
pivot_root ENOSYS, chroot ENOSYS, open_tree ENOSYS, move_mount ENOSYS, fsopen ENOSYS, mount_setattr ENOSYS,
open_by_handle_at ENOSYS, mknodat ENOSYS, keyctl ENOSYS, add_key ENOSYS, request_key ENOSYS, init_module ENOSYS,
finit_module ENOSYS, delete_module ENOSYS, kexec_load ENOSYS, reboot ENOSYS, quotactl ENOSYS, swapon ENOSYS, syslog ENOSYS,
sethostname ENOSYS, clock_settime ENOSYS, ioctl-TIOCSTI EPERM, ioctl-TIOCLINUX EPERM, fcntl-F_SETOWN EPERM,
socket-tcp ok, socket-udp ok, socket-raw EPERM, socket-ping EPERM, socket-packet EPERM, socket-unix EPERM,
socket-netlink EPERM, socket-alg EPERM, socket-vsock EPERM";

const CALLS: &str = "PREWASI_PROBE=calls";

/// The answers, one a line, with others for some calls.
fn answers(others: &[(&str, &str)]) -> Vec<String> {
    let answers = ANSWERS.split(',').map(|answer| answer.trim().split_once(' ').expect("a call and its answer"));
    let other = |call: &str| others.iter().find(|(name, _)| *name == call).map(|(_, answer)| *answer);
    answers.map(|(call, answer)| format!("{call} {}", other(call).unwrap_or(answer))).collect()
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

fn guest(namespace: &Namespace, name: &str) -> String {
    let program = Program::guest(namespace, name);
    image::import(namespace, "guest", |image| image.layer(program.layer("demo.wasm"))).name
}

/// A container is refused every call that it does not need, and further uses of the calls that it needs.
async fn calls_are_refused_to_a_container(namespace: Namespace) {
    let container = namespace.container(&guest(&namespace, DEMO)).env(CALLS);
    let exited = container.run().await;
    assert_eq!((exited.code, &*exited.stderr), (0, ""));
    assert_eq!(lines(&exited.stdout), answers(&[]));
}

/// So is a process that is executed in one.
async fn calls_are_refused_to_a_process(namespace: Namespace) {
    let container = ticking(&namespace, DEMO).await;
    let process = json!({ "env": [CALLS] });
    let exited = container.exec(&["demo.wasm"]).change(process).run().await;
    assert_eq!((exited.code, &*exited.stderr), (0, ""));
    assert_eq!(lines(&exited.stdout), answers(&[]));
    container.end().await;
}

/// Without a network there is no call that makes a socket.
async fn calls_are_refused_without_a_network(namespace: Namespace) {
    let image = guest(&namespace, DEMO);
    let container = namespace.container(&image).options("network = \"none\"").env(CALLS);
    let exited = container.run().await;
    let kinds = ["tcp", "udp", "raw", "ping", "packet", "unix", "netlink", "alg", "vsock"];
    let kinds = kinds.map(|kind| format!("socket-{kind}"));
    let expected = answers(&kinds.each_ref().map(|kind| (kind.as_str(), "ENOSYS")));
    assert_eq!(lines(&exited.stdout), expected);
}

/// A server may have processes besides, and nothing else.
async fn server_may_have_processes(namespace: Namespace) {
    let container = namespace.container(&guest(&namespace, WEB)).env(CALLS);
    let exited = container.run().await;
    assert_eq!((exited.code, &*exited.stderr), (0, ""));
    assert_eq!(lines(&exited.stdout), answers(&[("clone-process", "ok"), ("tgkill-other", "error 3")]));
}

/// A call with the numbers of another architecture ends the guest with SIGSYS.
async fn calls_of_another_architecture_end_the_guest(namespace: Namespace) {
    if cfg!(not(target_arch = "x86_64")) {
        return;
    }
    let image = guest(&namespace, DEMO);
    let exited = namespace.container(&image).env("PREWASI_PROBE=other-architecture").run().await;
    assert_eq!((exited.code, &*exited.stdout), (128 + 31, ""));
}

/// If the container's own filter leaves no way to load another one, the guest does not run, and the error names the reason. One of two ways
/// is enough.
async fn filter_that_forbids_filters_is_named(namespace: Namespace) {
    let image = guest(&namespace, DEMO);
    let run = async |forbidden: &[&str]| {
        let filter = json!({ "linux": { "seccomp": {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": forbidden, "action": "SCMP_ACT_ERRNO" }],
        }}});
        namespace.container(&image).args(&["echo", "guarded"]).change(filter).try_create().await
    };
    let refused = run(&["seccomp", "prctl"]).await.err().expect("a process without prctl cannot be protected");
    assert!(refused.message().contains("cannot protect the process's memory from other processes"), "{refused}");
    let mut container = run(&["seccomp"]).await.expect("prctl is enough");
    container.start().await;
    let exited = container.finish().await;
    assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (0, "guarded\n", ""));
}

/// A guest without all folders reaches no other path, not even with its code outside wasm.
async fn folders_are_closed(namespace: Namespace) {
    let (image, folder) = (guest(&namespace, DEMO), namespace.folder().join("volume"));
    fs::create_dir_all(&folder).expect("the folder is ours");
    let hosts = namespace.folder().join("hosts");
    for file in [&folder.join("file"), &hosts] {
        fs::write(file, "x").expect("the folder is ours");
    }
    for (preopens, expected) in [
        ("root", [("/data/file", "ok", "ok"), ("/proc/uptime", "ok", "error 30"), ("/etc/hosts", "ok", "ok")]),
        (
            "read-only",
            [("/data/file", "ok", "EACCES"), ("/proc/uptime", "ok", "error 30"), ("/etc/hosts", "ok", "EACCES")],
        ),
        (
            "mounts",
            [("/data/file", "ok", "ok"), ("/proc/uptime", "EACCES", "error 30"), ("/etc/hosts", "ok", "EACCES")],
        ),
        (
            "none",
            [
                ("/data/file", "EACCES", "EACCES"),
                ("/proc/uptime", "EACCES", "error 30"),
                ("/etc/hosts", "ok", "EACCES"),
            ],
        ),
    ] {
        for (path, read, write) in expected {
            let bind = |source: &std::path::Path, destination: &str| json!({ "type": "bind", "source": source, "destination": destination, "options": ["rbind", "rw"] });
            let container = namespace.container(&image).options(&format!("preopens = \"{preopens}\""));
            let container = container.mount(bind(&folder, "/data")).mount(bind(&hosts, "/etc/hosts"));
            let exited = container.env(&format!("PREWASI_PROBE={path}")).run().await;
            let expected = [format!("read {read}"), format!("write {write}")];
            assert_eq!(lines(&exited.stdout), expected, "{preopens} {path}: {}", exited.stderr);
        }
    }
}

/// The record contains the calls of guests of this engine in a mixed run, and also those that they make in vain.
async fn guests_call_what_was_recorded(namespace: Namespace) {
    let record = include_str!("../../shim/src/pod/launch/guard/recorded.txt");
    let record = calls::table(record).remove(namespace.engine()).expect("the engine is in the record");
    let (demo, wasi) = (guest(&namespace, DEMO), guest(&namespace, WASI));
    let runs: [(&str, &[&str]); 9] = [
        (&demo, &["echo", "hello"]),
        (&demo, &["write", "/file", "text"]),
        (&demo, &["read", "/etc/hosts"]),
        (&demo, &["allocate", "16"]),
        (&demo, &["trap"]),
        (&wasi, &["fd_advise"]),
        (&wasi, &["symlink_create"]),
        (&wasi, &["path_rename"]),
        (&wasi, &["file_allocate"]),
    ];
    for (image, args) in runs {
        let mut container = namespace.container(image).args(args).create().await;
        let file = namespace.folder().join(namespace.fresh_id("calls"));
        let tracer = Tracer::attach(container.pid(), &file);
        container.start().await;
        container.finish().await;
        let calls = tracer.finish();
        let new = |calls: &BTreeSet<String>, known: &BTreeSet<String>| -> Vec<String> {
            calls.difference(known).cloned().collect()
        };
        assert!(calls.made.contains("exit_group") || calls.made.len() > 10, "{args:?}: {calls:?}");
        assert_eq!(new(&calls.made, &record.made), Vec::<String>::new(), "{args:?}");
        assert_eq!(new(&calls.unknown, &record.unknown), Vec::<String>::new(), "{args:?}");
    }
}
