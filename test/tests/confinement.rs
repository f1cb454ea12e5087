//! The confinement of a container's processes: users, capabilities, limits, filters, paths, cgroups, and hooks. A wasm program is confined
//! like a native one, and a native one as runc does it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Imported, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case};
use serde_json::{Value, json};

use crate::busybox;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(user_and_groups_are_set, needs Runc Busybox),
        case!(group_that_is_named_twice_is_one, needs Runc Busybox),
        case!(capabilities_are_set, needs Runc Busybox),
        case!(privileges_stay_possible_if_wanted, needs Runc Busybox),
        case!(resource_limits_are_set, needs Runc Busybox),
        case!(oom_score_and_cgroup_are_set, needs Runc Busybox),
        case!(cgroup_path_of_systemd_leaves_nothing),
        case!(seccomp_filter_holds_for_wasm),
        case!(seccomp_filter_holds_for_native_programs, needs Runc Busybox),
        case!(seccomp_filter_holds_for_processes, needs Busybox),
        case!(default_seccomp_profile_lets_wasm_run),
        case!(masked_and_read_only_paths_hold_for_wasm),
        case!(masked_and_read_only_paths_hold_for_native_programs, needs Runc Busybox),
        case!(root_can_be_read_only, needs Runc Busybox),
        case!(hooks_run_for_wasm, needs Busybox),
        case!(hooks_run_for_native_programs, needs Runc Busybox),
        case!(hook_that_fails_leaves_nothing),
    ]
}

pub(crate) const OURS: &str = "io.containerd.wasmtime.v1";
pub(crate) const RUNC: &str = "io.containerd.runc.v2";

pub(crate) fn wasm(namespace: &Namespace) -> Imported {
    let program = Program::guest(namespace, DEMO);
    image::import(namespace, "demo", |image| image.layer(program.layer("demo.wasm")))
}

/// Runs a container, and waits until its program sleeps: the state before the program's start does not matter.
pub(crate) async fn running(namespace: &Namespace, image: &Imported, runtime: &str, change: &Value) -> Container {
    let is_wasm = image.name.contains("demo");
    let args = if is_wasm { &["sleep", "600"][..] } else { &["sh", "-c", "echo sleeping; exec busybox sleep 600"] };
    let mut builder = namespace.container(&image.name).runtime(runtime).args(args);
    // A list is of changes, one after the other.
    for change in change.as_array().map_or(std::slice::from_ref(change), Vec::as_slice) {
        builder = builder.change(change.clone());
    }
    let mut container = builder.create().await;
    container.start().await;
    container.prints("sleeping").await;
    container
}

/// Asserts that `look` sees the same in a wasm container, a native one, and a native one of runc, and returns it.
pub(crate) async fn same<T: PartialEq + std::fmt::Debug>(
    namespace: &Namespace,
    change: Value,
    look: impl Fn(&Container) -> T,
) -> T {
    let (wasm, native) = (wasm(namespace), busybox::image(namespace));
    let reference = running(namespace, &native, RUNC, &change).await;
    let expected = look(&reference);
    reference.end().await;
    for (what, image) in [("native", &native), ("wasm", &wasm)] {
        let container = running(namespace, image, OURS, &change).await;
        assert_eq!(look(&container), expected, "{what}");
        container.end().await;
    }
    expected
}

/// Reads fields of `/proc/PID/status`.
pub(crate) fn status(container: &Container, names: &[&str]) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{}/status", container.pid())).expect("it runs");
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    let fields = fields.filter(|(name, _)| names.contains(name));
    fields.map(|(name, value)| (name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" "))).collect()
}

/// User, group and further groups are those of the spec.
async fn user_and_groups_are_set(namespace: Namespace) {
    let change = json!({ "process": { "user": { "uid": 1000, "gid": 1001, "additionalGids": [7, 8] } } });
    let seen = same(&namespace, change, |container| status(container, &["Uid", "Gid", "Groups"])).await;
    assert_eq!(seen.values().collect::<Vec<_>>(), ["1001 1001 1001 1001", "7 8", "1000 1000 1000 1000"]);
}

/// A further group that is named several times is one group of the process, of the container's first one and of one that is executed.
async fn group_that_is_named_twice_is_one(namespace: Namespace) {
    let user = json!({ "uid": 1000, "gid": 1001, "additionalGids": [8, 7, 8, 1001, 7] });
    let seen =
        same(&namespace, json!({ "process": { "user": user } }), |container| status(container, &["Groups"])).await;
    assert_eq!(seen["Groups"], "7 8 1001");
    let image = busybox::image(&namespace);
    for runtime in [RUNC, OURS] {
        let container = running(&namespace, &image, runtime, &json!({})).await;
        let mut process =
            container.exec(&["/bin/busybox", "sleep", "600"]).change(json!({ "user": user })).create().await;
        process.start().await;
        busybox::replaces(process.pid()).await;
        assert_eq!(status(&process, &["Groups"])["Groups"], "7 8 1001", "{runtime}");
        process.kill(rustix::process::Signal::KILL).await.expect("it runs");
        process.wait().await;
        process.delete().await;
        container.end().await;
    }
}

const CAPABILITIES: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// Each set of capabilities equals the spec's set after the execution of a program, for root and other users. A set that the spec does not
/// name is empty. A later exec process has the capabilities of its own spec.
async fn capabilities_are_set(namespace: Namespace) {
    let sets = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"], "permitted": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN"],
    });
    let ambient = json!({
        "bounding": ["CAP_NET_RAW", "CAP_KILL"], "permitted": ["CAP_NET_RAW", "CAP_KILL"], "effective": ["CAP_NET_RAW"],
        "inheritable": ["CAP_NET_RAW", "CAP_KILL"], "ambient": ["CAP_NET_RAW"],
    });
    let inheritable = json!({
        "bounding": ["CAP_NET_RAW"], "permitted": ["CAP_NET_RAW"], "effective": ["CAP_NET_RAW"], "inheritable": ["CAP_NET_RAW"],
    });
    let none = json!({});
    for uid in [0, 1000] {
        for sets in [&sets, &ambient, &inheritable, &none] {
            for forbidden in [false, true] {
                // Merging would keep sets that are not named.
                let clear = json!({
                    "user": { "uid": uid, "gid": uid }, "noNewPrivileges": forbidden.then_some(true), "capabilities": null,
                });
                assert_capabilities(&namespace, &[clear, json!({ "capabilities": sets })]).await;
            }
        }
        // containerd's own sets.
        assert_capabilities(&namespace, &[json!({ "user": { "uid": uid, "gid": uid } })]).await;
    }
}

/// Asserts it for a process to which changes are made, one after the other.
async fn assert_capabilities(namespace: &Namespace, changes: &[Value]) {
    let of_containers: Vec<Value> = changes.iter().map(|process| json!({ "process": process })).collect();
    let look = |container: &Container| status(container, &CAPABILITIES);
    let expected = same(namespace, Value::Array(of_containers), look).await;
    let container = running(namespace, &wasm(namespace), OURS, &json!({})).await;
    let process = container.exec(&["/demo.wasm", "sleep", "600"]);
    let mut process = changes.iter().fold(process, |process, change| process.change(change.clone())).create().await;
    process.start().await;
    process.prints("sleeping").await;
    assert_eq!(look(&process), expected, "executed: {changes:?}");
    container.end().await;
}

/// Forbids new privileges, or says nothing of it: that is how Go writes `false`.
fn privileges(forbidden: bool) -> Value {
    json!({ "process": { "noNewPrivileges": forbidden.then_some(true) } })
}

/// `noNewPrivileges` of a native program follows the spec. A wasm program, which never executes another one, always has it, because its
/// guard needs it.
async fn privileges_stay_possible_if_wanted(namespace: Namespace) {
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    let nothing_new = |container: &Container| status(container, &["NoNewPrivs"])["NoNewPrivs"].clone();
    for wanted in [true, false] {
        let change = privileges(wanted);
        let expected = if wanted { "1" } else { "0" };
        for (image, runtime, expected) in [(&native, RUNC, expected), (&native, OURS, expected), (&wasm, OURS, "1")] {
            let container = running(&namespace, image, runtime, &change).await;
            assert_eq!(nothing_new(&container), expected, "{runtime}, {}, {wanted}", image.name);
            container.end().await;
        }
    }
}

/// Resource limits are those of the spec.
async fn resource_limits_are_set(namespace: Namespace) {
    let change = json!({ "process": { "rlimits": [
        { "type": "RLIMIT_NOFILE", "soft": 300, "hard": 400 }, { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
    ]}});
    let limits = |container: &Container| {
        let text = fs::read_to_string(format!("/proc/{}/limits", container.pid())).expect("it runs");
        let lines = text.lines().filter(|line| line.starts_with("Max open files") || line.starts_with("Max core"));
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    let seen = same(&namespace, change, limits).await;
    assert_eq!(seen, ["Max core file size 0 0 bytes", "Max open files 300 400 files"]);
}

/// How willingly the kernel kills it, and the cgroup of every controller, are those of the spec.
async fn oom_score_and_cgroup_are_set(namespace: Namespace) {
    let change = json!({ "process": { "oomScoreAdj": 500 }, "linux": { "cgroupsPath": format!("/{}/named", namespace.name()) } });
    let look = |container: &Container| {
        let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", container.pid())).expect("it runs");
        // In which order the kernel lists hierarchies is its own affair.
        let (score, cgroups) = (read("oom_score_adj"), read("cgroup"));
        let memory = cgroups.lines().find(|line| line.contains(":memory:") || line.starts_with("0::/pw"));
        (score, memory.and_then(|line| line.rsplit(':').next()).map(str::to_owned))
    };
    let (score, cgroup) = same(&namespace, change, look).await;
    assert_eq!((score.trim(), cgroup), ("500", Some(format!("/{}/named", namespace.name()))));
}

/// A container whose cgroup path has the form of systemd's driver runs in a cgroup of that name, and nothing of it is left.
async fn cgroup_path_of_systemd_leaves_nothing(namespace: Namespace) {
    let image = wasm(&namespace);
    let name = namespace.name().to_lowercase();
    let path = json!({ "linux": { "cgroupsPath": format!("{name}.slice:prewasi:{name}") } });
    let mut container = namespace.container(&image.name).args(&["sleep", "600"]).change(path).create().await;
    container.start().await;
    container.prints("sleeping").await;
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).expect("it runs");
    assert!(cgroups.lines().filter(|line| line.contains(&name)).count() > 0, "{cgroups}");
    container.end().await;
    let mut left = Vec::new();
    let mut pending = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.extend(entry.file_name().to_string_lossy().contains(&name).then(|| entry.path()));
                pending.push(entry.path());
            }
        }
    }
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
}

/// A filter under which no folder can be made.
fn filter() -> Value {
    json!({ "linux": { "seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }],
    }}})
}

/// A wasm program is refused the calls that the filter refuses, and no others.
async fn seccomp_filter_holds_for_wasm(namespace: Namespace) {
    // Makes a folder and exits with WASI's number of the error.
    let wasm = wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "new")
            (func (export "_start") (call $exit (call $mkdir (i32.const 3) (i32.const 0) (i32.const 3)))))"#,
    );
    let program = Program::new(wasm.expect("the text is valid"));
    let image = image::import(&namespace, "mkdir", |image| image.layer(program.layer("mkdir.wasm")));
    assert_eq!(namespace.container(&image.name).run().await.code, 0);
    const EPERM: u32 = 63;
    for wanted in [true, false] {
        let container = namespace.container(&image.name).change(filter());
        let exited = container.change(privileges(wanted)).run().await;
        assert_eq!(exited.code, EPERM);
    }
}

/// So is a native one, as with runc.
async fn seccomp_filter_holds_for_native_programs(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let run = async |runtime: &str| {
        let exited =
            namespace.container(&image.name).runtime(runtime).args(&["mkdir", "/new"]).change(filter()).run().await;
        (exited.code, exited.stderr)
    };
    let reference = run(RUNC).await;
    assert_eq!(run(OURS).await, reference);
    assert_eq!(reference, (1, "mkdir: can't create directory '/new': Operation not permitted\n".to_owned()));
}

/// A process that is executed later is under the container's filter and has the capabilities it shall have.
async fn seccomp_filter_holds_for_processes(namespace: Namespace) {
    let image = busybox::image(&namespace);
    for wanted in [true, false] {
        let change = privileges(wanted);
        let builder = namespace.container(&image.name).args(&["sleep", "600"]).change(filter()).change(change);
        let mut container = builder.create().await;
        container.start().await;
        let script = "busybox mkdir /new; busybox grep -E '^(Seccomp|CapEff|CapBnd|NoNewPrivs):' /proc/self/status";
        let exited = container.exec(&["/bin/busybox", "sh", "-c", script]).run().await;
        assert!(exited.stderr.contains("Operation not permitted"), "{exited:?}");
        let own = status(&container, &["Seccomp", "CapEff", "CapBnd", "NoNewPrivs"]);
        assert_eq!(own["Seccomp"], "2");
        let seen: BTreeMap<String, String> = exited
            .stdout
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        assert_eq!(seen, own);
        container.end().await;
    }
}

/// Under containerd's own default filter wasm programs run.
async fn default_seccomp_profile_lets_wasm_run(namespace: Namespace) {
    let image = wasm(&namespace);
    let id = namespace.fresh_id("ctr");
    let runtime = ["run", "--rm", "--seccomp", "--runtime", OURS];
    let output =
        namespace.ctr(&[&runtime[..], &[&*image.name, &*id, "/demo.wasm", "echo", "filtered"]].concat()).success();
    assert_eq!(output.stdout, "filtered\n");
}

fn paths() -> Value {
    json!({ "linux": { "maskedPaths": ["/proc/version", "/proc/fs"], "readonlyPaths": ["/run"] } })
}

/// A masked file is empty, and in a folder that is read-only nothing can be written.
async fn masked_and_read_only_paths_hold_for_wasm(namespace: Namespace) {
    let image = wasm(&namespace);
    let run = async |args: &[&str]| namespace.container(&image.name).args(args).change(paths()).run().await;
    let masked = run(&["read", "/proc/version"]).await;
    assert_eq!((masked.code, &*masked.stdout), (0, ""));
    assert!(run(&["read", "/proc/uptime"]).await.stdout.contains('.'));
    assert_eq!(run(&["write", "/run/file"]).await.code, 1);
    assert_eq!(run(&["write", "/file"]).await.code, 0);
}

/// The same for native programs, as with runc.
async fn masked_and_read_only_paths_hold_for_native_programs(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let script =
        "busybox cat /proc/version; busybox ls /proc/fs; busybox touch /run/file || busybox touch /file && echo ok";
    let run = async |runtime: &str| {
        let container = namespace.container(&image.name).runtime(runtime).args(&["sh", "-c", script]);
        container.change(paths()).run().await
    };
    let reference = run(RUNC).await;
    assert_eq!(run(OURS).await, reference);
    assert_eq!(reference.stdout, "ok\n");
}

/// A root filesystem that is read-only is so for wasm and native programs, as with runc.
async fn root_can_be_read_only(namespace: Namespace) {
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    let change = json!({ "root": { "readonly": true } });
    let run = async |image: &Imported, runtime: &str, args: &[&str]| {
        namespace.container(&image.name).runtime(runtime).args(args).change(change.clone()).run().await.code
    };
    assert_eq!(run(&wasm, OURS, &["write", "/file"]).await, 1);
    assert_eq!(run(&native, OURS, &["touch", "/file"]).await, 1);
    assert_eq!(run(&native, RUNC, &["touch", "/file"]).await, 1);
}

/// Returns hooks of every phase. Each writes its name and its input to a folder of the test's.
fn hooks(folder: &Path) -> Value {
    fs::create_dir_all(folder).expect("the folder is ours");
    let outside = |phase: &str| {
        let script = format!("cat > {0}/{phase}; echo {phase} >> {0}/order", folder.display());
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }])
    };
    json!({ "hooks": {
        "prestart": outside("prestart"),
        "createRuntime": outside("createRuntime"),
        "createContainer": outside("createContainer"),
        "startContainer": [{ "path": "/bin/busybox", "args": ["busybox", "sh", "-c", "echo inside > /hook"] }],
        "poststart": outside("poststart"),
        "poststop": outside("poststop"),
    }})
}

async fn assert_hooks(namespace: &Namespace, image: &Imported, runtime: &str, args: &[&str]) {
    let folder = namespace.folder().join(namespace.fresh_id("hooks"));
    let builder = namespace.container(&image.name).runtime(runtime).args(args).change(hooks(&folder));
    let container = builder.create().await;
    let order = || fs::read_to_string(folder.join("order")).unwrap_or_default();
    let before = "prestart\ncreateRuntime\ncreateContainer\n";
    if runtime == OURS {
        // runc does not wait for the start with those that come after it.
        assert_eq!(order(), before);
    }
    let told: Value =
        serde_json::from_slice(&fs::read(folder.join("createRuntime")).expect("it ran")).expect("a state");
    assert_eq!((&told["id"], &told["pid"]), (&json!(container.id()), &json!(container.pid())));
    let mut container = container;
    container.start().await;
    let exited = container.finish().await;
    // The guest finds the file of the hook inside.
    assert_eq!((exited.code, &*exited.stdout), (0, "inside\n"));
    assert_eq!(order(), format!("{before}poststart\npoststop\n"));
}

/// Hooks of all phases run for a wasm container, in order, with the container's state.
async fn hooks_run_for_wasm(namespace: Namespace) {
    let first = Program::guest(&namespace, DEMO);
    let image = busybox::with_wasm(&namespace, &first, &first.bytes);
    assert_hooks(&namespace, &image, OURS, &["read", "/hook"]).await;
}

/// And for a native container, as with runc.
async fn hooks_run_for_native_programs(namespace: Namespace) {
    let image = busybox::image(&namespace);
    for runtime in [RUNC, OURS] {
        assert_hooks(&namespace, &image, runtime, &["cat", "/hook"]).await;
    }
}

/// A container whose hook fails is not created, and the error says so.
async fn hook_that_fails_leaves_nothing(namespace: Namespace) {
    let image = wasm(&namespace);
    let hook = json!({ "hooks": { "createRuntime": [{ "path": "/bin/false" }] } });
    let created = namespace.container(&image.name).change(hook).try_create().await;
    let status = created.err().expect("the hook fails");
    assert!(status.message().contains("hook"), "{status}");
    namespace.clear().await;
    namespace.assert_clean().await;
}
