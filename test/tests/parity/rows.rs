//! The matrix: the settings of a specification, each alone and as clients combine them.
//!
//! In the changes, `$FOLDER` is a folder of the container's own with `file`, `folder/inside` and the link `link`. `$PID` is a process of
//! the neighbour, a container of runc's that sleeps, and `$CGROUP` is the neighbour's cgroup. `$ID` and `$NAMESPACE` are the container's.

use std::fs;
use std::path::PathBuf;

use prewasi_test::image::Imported;
use prewasi_test::{Container, Namespace};
use serde_json::{Value, json};

use super::plain;
use crate::confinement::RUNC;

/// A specification, as changes to that of `ctr run`.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) changes: Vec<Value>,
    /// Paths of the container that the node looks at.
    pub(super) paths: &'static [&'static str],
    /// runc creates no such container, or does not start it.
    pub(super) refused: bool,
    /// Whether further processes act on the container's files.
    pub(super) acts: bool,
}

pub(super) fn row(name: &str, change: Value) -> Row {
    Row { name: name.to_owned(), changes: vec![change], paths: &[], refused: false, acts: false }
}

impl Row {
    pub(super) fn then(mut self, change: Value) -> Self {
        self.changes.push(change);
        self
    }

    fn acts(mut self) -> Self {
        self.acts = true;
        self
    }

    fn at(mut self, paths: &'static [&'static str]) -> Self {
        self.paths = paths;
        self
    }

    fn refused(mut self) -> Self {
        self.refused = true;
        self
    }
}

pub(super) fn users() -> Vec<Row> {
    let user = |user: Value| json!({ "process": { "user": user } });
    let forbidden = |wanted: Value| json!({ "process": { "noNewPrivileges": wanted } });
    let rows = vec![
        row("as ctr makes it", plain()),
        row("user", user(json!({ "uid": 1000, "gid": 1000 }))),
        row("user with groups", user(json!({ "uid": 1000, "gid": 1001, "additionalGids": [7, 5, 1001] }))),
        row("groups that come twice", user(json!({ "uid": 1000, "gid": 1000, "additionalGids": [5, 5, 0, 5] }))),
        row("no groups", user(json!({ "additionalGids": null }))),
        row("umask", user(json!({ "uid": 1000, "gid": 1000, "umask": 0o77 }))),
        row("user who may get privileges", user(json!({ "uid": 1000, "gid": 1000 }))).then(forbidden(Value::Null)),
        row("root who may get privileges", forbidden(json!(false))),
    ];
    rows.into_iter().map(Row::acts).collect()
}

pub(super) fn capabilities() -> Vec<Row> {
    let sets = |uid: u32, sets: Value| {
        let clear = json!({ "process": { "user": { "uid": uid, "gid": uid }, "capabilities": null } });
        row("", clear).then(json!({ "process": { "capabilities": sets } }))
    };
    let named = |name: &str, row: Row| Row { name: name.to_owned(), ..row };
    let added = json!(["CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_KILL"]);
    let unknown = json!(["CAP_KILL", "CAP_OF_TOMORROW"]);
    let dropped = json!({ "process": {
        "user": { "uid": 1000, "gid": 1000 }, "noNewPrivileges": true,
        "capabilities": { "bounding": null, "effective": null, "permitted": null },
    }});
    let rows = vec![
        named("root without sets", sets(0, json!({}))),
        named("user without sets", sets(1000, json!({}))),
        named("root with empty sets", sets(0, json!({ "bounding": [], "effective": [], "permitted": [] }))),
        row("all dropped, as dockerd writes it", dropped),
        named(
            "added",
            sets(0, json!({ "bounding": &added, "effective": &added, "permitted": &added, "inheritable": &added })),
        ),
        named(
            "ambient",
            sets(
                1000,
                json!({ "bounding": &added, "effective": &added, "permitted": &added, "inheritable": &added, "ambient": &added }),
            ),
        ),
        named("only bounding", sets(0, json!({ "bounding": &added }))),
        named("unknown", sets(0, json!({ "bounding": &unknown, "effective": &unknown, "permitted": &unknown }))),
    ];
    rows.into_iter().map(Row::acts).collect()
}

/// Namespaces of the container's own, but for one that is the node's or another's.
fn namespaces_but(replaced: &str, by: Option<Value>) -> Value {
    let own = ["pid", "ipc", "uts", "mount", "network"].into_iter().filter(|kind| *kind != replaced);
    let mut list: Vec<_> = own.map(|kind| json!({ "type": kind })).collect();
    list.extend(by);
    json!({ "linux": { "namespaces": list } })
}

pub(super) fn namespaces() -> Vec<Row> {
    let path = |kind: &str, file: &str| Some(json!({ "type": kind, "path": format!("/proc/$PID/ns/{file}") }));
    let nothing = json!({ "hostname": null });
    vec![
        row("the node's processes", namespaces_but("pid", None)),
        row("the node's network", namespaces_but("network", None)),
        row("the node's ipc", namespaces_but("ipc", None)),
        row("the node's hostname", nothing).then(namespaces_but("uts", None)),
        row("processes of another container", namespaces_but("pid", path("pid", "pid"))),
        row("network of another container", namespaces_but("network", path("network", "net"))),
        row("ipc of another container", namespaces_but("ipc", path("ipc", "ipc"))),
        row("cgroup namespace", namespaces_but("", Some(json!({ "type": "cgroup" })))),
        row("names", json!({ "hostname": "box", "domainname": "example" })),
        row("sysctls", json!({ "linux": { "sysctl": { "kernel.msgmax": "9000", "net.ipv4.ip_default_ttl": "42" } } })),
        row("sysctl that is the node's", json!({ "linux": { "sysctl": { "vm.swappiness": "42" } } })).refused(),
    ]
}

pub(super) fn cgroups() -> Vec<Row> {
    let path = |path: &str| json!({ "linux": { "cgroupsPath": path } });
    vec![
        row("nested cgroup", path("/$NAMESPACE/deep/er/one")),
        row("path that leads up", path("/$NAMESPACE/a/../../../$NAMESPACE/b")),
        row("cgroup below another container's", path("$CGROUP/below")),
        row(
            "limits",
            json!({ "linux": { "resources": { "memory": { "limit": 67_108_864 }, "cpu": { "shares": 512 }, "pids": { "limit": 64 } } } }),
        ),
    ]
}

fn bind(destination: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": options })
}

/// Adds mounts to those of `ctr run`.
fn with_mounts(more: &[Value]) -> Value {
    let mount = |kind: &str, destination: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    let mut mounts = vec![
        mount("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    mounts.extend_from_slice(more);
    json!({ "mounts": mounts })
}

pub(super) fn mounts() -> Vec<Row> {
    let one = |name: &str, mount: Value| row(name, with_mounts(&[mount]));
    vec![
        one("bound folder", bind("/new/bound", "$FOLDER/folder", &["bind"])).at(&["/new", "/new/bound", "/new/bound/inside"]),
        one("bound file", bind("/new/bound", "$FOLDER/file", &["bind"])).at(&["/new", "/new/bound"]),
        one("bound by a link", bind("/bound", "$FOLDER/link", &["rbind"])).at(&["/bound"]),
        one("bound read-only", bind("/bound", "$FOLDER/folder", &["rbind", "ro"])).at(&["/bound"]),
        one("bound read-only with what is below", bind("/bound", "$FOLDER/folder", &["rbind", "rro"])),
        one("bound with flags", bind("/bound", "$FOLDER/folder", &["rbind", "nosuid", "nodev", "noexec", "noatime"])),
        one("bound file of the node's names", bind("/etc/hosts", "$FOLDER/file", &["rbind", "rprivate", "ro"])).at(&["/etc", "/etc/hosts"]),
        one("bound over a file of the image", bind("/open", "$FOLDER/file", &["rbind"])).at(&["/open"]),
        one("source that is missing", bind("/bound", "$FOLDER/missing", &["rbind"])).refused(),
        one("folder over a file", bind("/open", "$FOLDER/folder", &["rbind"])).refused(),
        one("tmpfs", json!({ "destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m", "mode=1777"] })).at(&["/scratch"]),
        one("tmpfs over a folder with files", json!({ "destination": "/work", "type": "tmpfs", "source": "tmpfs", "options": ["rw", "nodev"] })).at(&["/work", "/work/file"]),
        one("tmpfs with the files below", json!({ "destination": "/work", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"] })).at(&["/work", "/work/file"]),
        one("kind that no kernel knows", json!({ "destination": "/scratch", "type": "nofs", "source": "nofs" })).refused(),
        row("two at one place", with_mounts(&[bind("/bound", "$FOLDER/folder", &["rbind"]), bind("/bound/deep", "$FOLDER/folder", &["rbind", "ro"])])).at(&["/bound/deep"]),
        row("the node's cgroups", with_mounts(&[json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] })])),
    ]
}

pub(super) fn propagation() -> Vec<Row> {
    let root = |how: &str| json!({ "linux": { "rootfsPropagation": how } });
    let bound = |how: &str| with_mounts(&[bind("/bound", "$FOLDER/folder", &["rbind", how])]);
    vec![
        row("root is private", root("private")),
        row("root is a slave", root("slave")),
        row("root is a slave, with what is below", root("rslave")),
        row("root is shared", root("rshared")).then(bound("rshared")),
        row("folder is private", bound("rprivate")),
        row("folder is a slave", bound("rslave")).then(root("rslave")),
        row("folder is shared", bound("rshared")).then(root("rshared")),
        row("folder is a slave, root is not", bound("rslave")),
        row("folder cannot be bound", bound("unbindable")),
    ]
}

pub(super) fn folders() -> Vec<Row> {
    let cwd = |cwd: &str| json!({ "process": { "cwd": cwd } });
    let user = json!({ "process": { "user": { "uid": 1000, "gid": 1000 } } });
    let rows = vec![
        row("working directory", cwd("/work")).at(&["/work"]),
        row("working directory that is missing", cwd("/fresh/deep")).at(&["/fresh", "/fresh/deep"]),
        row("working directory that is missing, as a user", cwd("/fresh/deep"))
            .then(user.clone())
            .at(&["/fresh", "/fresh/deep"]),
        row("working directory that a user may not enter", cwd("/proc/1/task")).then(user),
        row("working directory that is a file", cwd("/open")).refused(),
        row("working directory without a root", cwd("work")).refused(),
        row("root is read-only", json!({ "root": { "readonly": true } })),
        row("working directory is missing, root is read-only", json!({ "root": { "readonly": true } }))
            .then(cwd("/fresh")),
    ];
    rows.into_iter().map(Row::acts).collect()
}

pub(super) fn paths() -> Vec<Row> {
    let paths = |masked: Value, fixed: Value| json!({ "linux": { "maskedPaths": masked, "readonlyPaths": fixed } });
    vec![
        row("nothing is masked", paths(json!([]), json!([]))),
        row("masked file and folder", paths(json!(["/proc/version", "/work"]), json!([]))).at(&["/work", "/work/file"]),
        row("read-only paths", paths(json!([]), json!(["/proc/sys", "/work", "/dev/shm"]))),
        row("paths that are missing", paths(json!(["/none"]), json!(["/none/either"]))),
        row("masked links", paths(json!(["/links/file", "/links/folder", "/links/dangling"]), json!([]))).at(&[
            "/links/file",
            "/links/folder",
            "/open",
            "/work",
        ]),
        row("read-only links", paths(json!([]), json!(["/links/file", "/links/folder", "/links/dangling"]))).at(&[
            "/links/file",
            "/open",
            "/work",
        ]),
        row("masked link of a volume", paths(json!(["/bound/link"]), json!([])))
            .then(with_mounts(&[bind("/bound", "$FOLDER", &["rbind"])]))
            .at(&["/bound/link", "/bound/folder"]),
    ]
}

fn hook(phase: &str, script: &str, timeout: Option<u32>) -> Value {
    json!({ "hooks": { phase: [{ "path": "/bin/sh", "args": ["sh", "-c", script], "timeout": timeout }] } })
}

pub(super) fn hooks() -> Vec<Row> {
    let missing = |phase: &str| json!({ "hooks": { phase: [{ "path": "/none/hook" }] } });
    vec![
        row("hooks", hook("prestart", "true", None)).then(hook("createRuntime", "true", Some(10))).then(hook(
            "createContainer",
            "true",
            None,
        )),
        row("prestart hook that fails", hook("prestart", "exit 3", None)).refused(),
        row("createRuntime hook that fails", hook("createRuntime", "exit 3", None)).refused(),
        row("createContainer hook that fails", hook("createContainer", "exit 3", None)).refused(),
        row("createRuntime hook that hangs", hook("createRuntime", "exec sleep 600", Some(1))).refused(),
        row("createRuntime hook that is missing", missing("createRuntime")).refused(),
        row("createContainer hook that is missing", missing("createContainer")).refused(),
        row("startContainer hook that is missing", missing("startContainer")).refused(),
        row("poststart hook that fails", hook("poststart", "exit 3", None)).refused(),
        row("poststop hook that fails", hook("poststop", "exit 3", None)),
    ]
}

pub(super) fn processes() -> Vec<Row> {
    let limits = json!([
        { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
        { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
        { "type": "RLIMIT_STACK", "soft": 4 << 20, "hard": 8 << 20 },
        { "type": "RLIMIT_NPROC", "soft": 50, "hard": 60 },
        { "type": "RLIMIT_FSIZE", "soft": 1 << 20, "hard": 1 << 20 },
    ]);
    let twice =
        json!([{ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }, { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }]);
    vec![
        row("limits", json!({ "process": { "rlimits": limits } })),
        row("no limits", json!({ "process": { "rlimits": null } })),
        row("limit that comes twice", json!({ "process": { "rlimits": twice } })),
        row(
            "limit that nobody knows",
            json!({ "process": { "rlimits": [{ "type": "RLIMIT_NONE", "soft": 0, "hard": 0 }] } }),
        )
        .refused(),
        row("score", json!({ "process": { "oomScoreAdj": 777 } })),
        row(
            "filter",
            json!({ "linux": { "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{ "names": ["chmod", "fchmodat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }],
            }}}),
        ),
        row(
            "filter with an action that nobody knows",
            json!({ "linux": { "seccomp": { "defaultAction": "SCMP_ACT_NONE" } } }),
        )
        .refused(),
        row("domain of Linux", json!({ "linux": { "personality": { "domain": "LINUX" } } })),
    ]
}

pub(super) fn devices() -> Vec<Row> {
    let node = json!({ "path": "/dev/made-for-it", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8 });
    let deep = json!({ "path": "/dev/deep/er", "type": "c", "major": 1, "minor": 3 });
    let rules = json!([{ "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 1, "minor": 5, "access": "rw" }]);
    vec![
        row("device", json!({ "linux": { "devices": [node], "resources": { "devices": rules } } }))
            .at(&["/dev/made-for-it"]),
        row("device in a folder", json!({ "linux": { "devices": [deep] } })).at(&["/dev/deep", "/dev/deep/er"]),
        row("all devices", json!({ "linux": { "resources": { "devices": [{ "allow": true, "access": "rwm" }] } } })),
    ]
}

/// The base of the rows: a container of runc's that sleeps.
pub(super) struct Neighbour {
    container: Container,
    namespace: Namespace,
}

impl Neighbour {
    pub(super) async fn new(namespace: &Namespace, image: &Imported) -> Self {
        let args = json!({ "process": { "args": ["/bin/busybox", "sleep", "600"] } });
        let mut container = namespace.container(&image.name).runtime(RUNC).change(args).create().await;
        container.start().await;
        Self { container, namespace: namespace.clone() }
    }

    /// Makes a folder for a container.
    pub(super) fn place(&self) -> Place {
        let folder = self.namespace.folder().join(self.namespace.fresh_id("row"));
        fs::create_dir_all(folder.join("folder")).expect("the folder is ours");
        fs::write(folder.join("file"), "text\n").expect("the folder is ours");
        fs::write(folder.join("folder/inside"), "text\n").expect("the folder is ours");
        std::os::unix::fs::symlink("folder", folder.join("link")).expect("the folder is ours");
        let namespace = self.namespace.name().to_owned();
        let cgroup = format!("/{namespace}/{}", self.container.id());
        let id = self.namespace.fresh_id("parity");
        Place { folder, pid: self.container.pid().to_string(), namespace, cgroup, id }
    }

    pub(super) async fn end(self) {
        self.container.end().await;
    }
}

/// The values that a container has for the names.
#[derive(Default)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) pid: String,
    pub(super) namespace: String,
    pub(super) cgroup: String,
    pub(super) id: String,
}

impl Place {
    /// Puts the values in the places of their names.
    pub(super) fn fill(&self, change: &Value) -> Value {
        serde_json::from_str(&self.fill_text(&change.to_string())).expect("it was JSON before")
    }

    pub(super) fn fill_text(&self, text: &str) -> String {
        let text = text.replace("$FOLDER", &self.folder.to_string_lossy()).replace("$PID", &self.pid);
        text.replace("$NAMESPACE", &self.namespace).replace("$CGROUP", &self.cgroup).replace("$ID", &self.id)
    }

    /// Puts the names back.
    pub(super) fn normal(&self, text: &str) -> String {
        let folder = self.folder.to_string_lossy();
        let names =
            [(&*folder, "$FOLDER"), (&self.cgroup, "$CGROUP"), (&self.id, "$ID"), (&self.namespace, "$NAMESPACE")];
        let given = names.into_iter().filter(|(value, _)| !value.is_empty());
        given.fold(text.to_owned(), |text, (value, name)| text.replace(value, name))
    }
}
