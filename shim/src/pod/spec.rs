//! Reads a bundle's `config.json`.

pub(crate) mod adapt;
pub(crate) mod capabilities;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{Capability, LinuxIdMapping, LinuxNamespaceType, LinuxResources, Mount, Spec};
use prewasi_engines::{Guest, Preopen};
use prewasi_precompiler::{Options, Preopens};
use serde::Deserialize;
use serde_json::Value;

use crate::pod::entrypoint::Entrypoint;

/// The search path for programs, if the environment has none.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The reason why a bundle's config cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot parse {}", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// Reads the whole config of a bundle.
///
/// # Errors
/// [`SpecError`] names the file.
pub(crate) fn load(bundle: &Path) -> Result<Spec, SpecError> {
    read(bundle)
}

/// Reads only the annotations of a bundle's config.
///
/// # Errors
/// [`SpecError`] names the file.
pub(crate) fn annotations(bundle: &Path) -> Result<HashMap<String, String>, SpecError> {
    #[derive(Deserialize)]
    struct Annotated {
        annotations: Option<HashMap<String, String>>,
    }
    let config: Annotated = read(bundle)?;
    Ok(config.annotations.unwrap_or_default())
}

fn read<T: for<'de> Deserialize<'de>>(bundle: &Path) -> Result<T, SpecError> {
    let path = bundle.join("config.json");
    let bytes = fs::read(&path).map_err(|source| SpecError::Read { path: path.clone(), source })?;
    parse(&bytes).map_err(|source| SpecError::Parse { path, source })
}

/// Parses a spec, or the process of one. Ignores unknown capabilities with a warning, as runc does since 1.1: a client may know those of a
/// newer kernel.
///
/// # Errors
/// The error of the first attempt, if capabilities are not the cause.
pub(crate) fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    let error = match serde_json::from_slice(bytes) {
        Ok(parsed) => return Ok(parsed),
        Err(error) => error,
    };
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return Err(error) };
    let mut unknown = Vec::new();
    for path in ["/process/capabilities", "/capabilities"] {
        let sets =
            value.pointer_mut(path).and_then(Value::as_object_mut).into_iter().flat_map(|sets| sets.values_mut());
        for set in sets.filter_map(Value::as_array_mut) {
            let is_known = |name: &Value| !name.is_string() || Capability::deserialize(name).is_ok();
            unknown.extend(set.extract_if(.., |name| !is_known(name)));
        }
    }
    if unknown.is_empty() {
        return Err(error);
    }
    unknown.sort_unstable_by_key(Value::to_string);
    unknown.dedup();
    let names = Value::Array(unknown);
    tracing::warn!(capabilities = %names, "unknown capabilities are ignored");
    serde_json::from_value(value)
}

/// Returns the process's arguments.
pub(crate) fn args(spec: &Spec) -> &[String] {
    spec.process().as_ref().and_then(|process| process.args().as_deref()).unwrap_or_default()
}

/// Where Docker mounts the init program that `docker run --init` puts in front of a container's own.
const DOCKER_INIT: &str = "/sbin/docker-init";

/// Returns the spec without Docker's init program; `None` if it has none. The kernel could not execute wasm for such a program. The shim
/// itself reaps processes and forwards signals for a wasm process.
pub(crate) fn without_init(spec: &Spec) -> Option<Spec> {
    let is_mounted = spec.mounts().iter().flatten().any(|mount| mount.destination() == Path::new(DOCKER_INIT));
    let [init, separator, own @ ..] = args(spec) else { return None };
    if !is_mounted || init != DOCKER_INIT || separator != "--" || own.is_empty() {
        return None;
    }
    let own = own.to_vec();
    let mut spec = spec.clone();
    spec.process_mut().as_mut()?.set_args(Some(own));
    Some(spec)
}

/// Returns the environment in the order given. Lines that are no `NAME=VALUE` are left out.
pub(crate) fn env(spec: &Spec) -> Vec<(String, String)> {
    let lines = spec.process().as_ref().and_then(|process| process.env().as_deref()).unwrap_or_default();
    lines
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Returns the working directory.
pub(crate) fn cwd(spec: &Spec) -> PathBuf {
    let cwd = spec.process().as_ref().map(|process| process.cwd().clone()).unwrap_or_default();
    if cwd.is_absolute() { cwd } else { Path::new("/").join(cwd) }
}

/// Returns the root filesystem.
pub(crate) fn root(spec: &Spec, bundle: &Path) -> PathBuf {
    let root = spec.root().as_ref().map_or_else(|| PathBuf::from("rootfs"), |root| root.path().clone());
    bundle.join(root)
}

/// Returns whether the container's processes die with its init, because they have their own pid namespace.
pub(crate) fn has_own_pids(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none())
}

/// Returns whether the container has a user namespace other than the shim's.
pub(crate) fn has_user_namespace(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::User)
}

/// Returns the process's user id outside the container's user namespace; `None` if the spec does not map it.
pub(crate) fn user_on_node(spec: &Spec) -> Option<u32> {
    let uid = spec.process().as_ref().map_or(0, |process| process.user().uid());
    let maps = spec.linux().as_ref().and_then(|linux| linux.uid_mappings().as_deref()).unwrap_or_default();
    if maps.is_empty() {
        return Some(uid);
    }
    let of = |map: &LinuxIdMapping| {
        let offset = uid.checked_sub(map.container_id()).filter(|offset| *offset < map.size())?;
        map.host_id().checked_add(offset)
    };
    maps.iter().find_map(of)
}

/// Returns user and group id of the container's root outside its user namespace; `None` if there is none, or the spec does not map them.
pub(crate) fn root_on_node(spec: &Spec) -> Option<(u32, u32)> {
    let linux = spec.linux().as_ref().filter(|_| has_user_namespace(spec))?;
    let root = |maps: &Option<Vec<LinuxIdMapping>>| {
        maps.iter().flatten().find(|map| map.container_id() == 0).map(LinuxIdMapping::host_id)
    };
    Some((root(linux.uid_mappings())?, root(linux.gid_mappings())?))
}

/// Returns whether the container has its own `/dev`, so that its root filesystem needs no devices.
pub(crate) fn has_own_devices(spec: &Spec) -> bool {
    spec.mounts().iter().flatten().any(|mount| mount.destination() == Path::new("/dev"))
}

/// Returns whether the container has a `/proc`.
pub(crate) fn has_proc(spec: &Spec) -> bool {
    let normal = |path: &Path| path.components().eq(Path::new("/proc").components());
    spec.mounts().iter().flatten().any(|mount| normal(mount.destination()))
}

/// Returns whether processes of the container can make devices.
pub(crate) fn can_make_devices(spec: &Spec) -> bool {
    let sets = spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
    sets.and_then(|sets| sets.bounding().as_ref()).is_some_and(|bounding| bounding.contains(&Capability::Mknod))
}

/// Returns the resources in the spec, with which the container is made.
pub(crate) fn resources(spec: &Spec) -> Option<&LinuxResources> {
    spec.linux().as_ref()?.resources().as_ref()
}

/// Returns the destinations of mounts that a program may use: folders outside of the system's `/dev`, `/proc` and `/sys`. It inspects the
/// sources of bind mounts, so it must be called outside the container.
pub(crate) fn mounted_folders(spec: &Spec) -> Vec<&str> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let of_system = |path: &Path| ["/dev", "/proc", "/sys"].iter().any(|folder| path.starts_with(folder));
    let is_folder = |mount: &Mount| !is_bind(mount) || mount.source().as_ref().is_some_and(|source| source.is_dir());
    let folders = mounts.iter().filter(|mount| !of_system(mount.destination()) && is_folder(mount));
    folders.filter_map(|mount| mount.destination().to_str()).collect()
}

/// Returns whether a mount shows a folder or file of the node.
pub(crate) fn is_bind(mount: &Mount) -> bool {
    let options = mount.options().as_deref().unwrap_or_default();
    mount.typ().as_deref() == Some("bind") || options.iter().any(|option| option == "bind" || option == "rbind")
}

/// Returns the container's memory limit, in bytes.
pub(crate) fn memory_limit(spec: &Spec) -> Option<u64> {
    let limit = resources(spec)?.memory().as_ref()?.limit()?;
    u64::try_from(limit).ok().filter(|limit| *limit > 0)
}

/// Makes the guest's parameters from the spec and the options, without its limits.
pub(crate) fn guest(spec: &Spec, entrypoint: &Entrypoint, options: &Options) -> Guest {
    let mut args = args(spec).to_vec();
    let mut env = env(spec);
    // Libraries with an emulated working directory start there.
    if !env.iter().any(|(name, _)| name == "PWD")
        && let Some(cwd) = cwd(spec).to_str()
    {
        env.push(("PWD".to_owned(), cwd.to_owned()));
    }
    match args.first_mut() {
        Some(first) => first.clone_from(&entrypoint.program),
        // Programs expect to have a name.
        None => args.push(entrypoint.program.clone()),
    }
    Guest {
        args,
        env,
        cwd: cwd(spec),
        preopens: preopens(spec, options.preopens),
        function: entrypoint.function.clone(),
        ..Guest::default()
    }
}

fn preopens(spec: &Spec, preopens: Preopens) -> Vec<Preopen> {
    let folder = |path: &str, read_only| Preopen { host: path.into(), guest: path.to_owned(), read_only };
    match preopens {
        Preopens::Root => vec![folder("/", false)],
        Preopens::ReadOnly => vec![folder("/", true)],
        Preopens::Mounts => mounted_folders(spec).into_iter().map(|path| folder(path, false)).collect(),
        Preopens::None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        serde_json::from_str(json).unwrap()
    }

    /// The guest gets the spec's arguments, environment and working directory, without the function's name.
    #[test]
    fn guests() {
        let spec = spec(
            r#"{"ociVersion":"1.1.0","process":{"cwd":"/w","args":["/a.wasm#f","x"],"env":["B=2","A=1=1","broken","A="],
                "user":{"uid":0,"gid":0}},"root":{"path":"rootfs"}}"#,
        );
        let guest = guest(&spec, &Entrypoint::parse("/a.wasm#f"), &Options::default());
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(guest.args, ["/a.wasm", "x"]);
        assert_eq!(guest.env, [pair("B", "2"), pair("A", "1=1"), pair("A", ""), pair("PWD", "/w")]);
        assert_eq!((guest.cwd.as_path(), guest.function.as_deref()), (Path::new("/w"), Some("f")));
        assert_eq!(root(&spec, Path::new("/b")), Path::new("/b/rootfs"));
    }

    /// Docker's init program is seen through if Docker has mounted it, and a program of the image by its name is not.
    #[test]
    fn init_is_seen_through() {
        let with = |words: &str, destination: &str| {
            let text = format!(
                r#"{{"ociVersion":"1.1.0","process":{{"cwd":"/","args":[{words}],"user":{{"uid":0,"gid":0}}}},
                    "mounts":[{{"destination":"{destination}","type":"bind","source":"/usr/bin/docker-init"}}]}}"#
            );
            without_init(&spec(&text)).map(|spec| args(&spec).to_vec())
        };
        let whole = r#""/sbin/docker-init","--","/app.wasm","--","x""#;
        assert_eq!(with(whole, DOCKER_INIT).unwrap(), ["/app.wasm", "--", "x"]);
        assert_eq!(with(whole, "/sbin/tini"), None);
        assert_eq!(with(r#""/sbin/docker-init","--""#, DOCKER_INIT), None);
        assert_eq!(with(r#""/sbin/docker-init","/app.wasm""#, DOCKER_INIT), None);
        assert_eq!(with(r#""/app.wasm","--","x""#, DOCKER_INIT), None);
    }

    /// Ids of a user namespace are told as those of the node.
    #[test]
    fn users_on_the_node() {
        let user = |uid: u32, maps: &str| {
            let process = format!(r#"{{"cwd":"/","user":{{"uid":{uid},"gid":0}}}}"#);
            let text = format!(r#"{{"ociVersion":"1.1.0","process":{process},"linux":{{"uidMappings":[{maps}]}}}}"#);
            user_on_node(&spec(&text))
        };
        assert_eq!(user(5, ""), Some(5));
        let maps = r#"{"containerID":0,"hostID":1000,"size":5},{"containerID":10,"hostID":7,"size":1}"#;
        let both = r#"{"ociVersion":"1.1.0","linux":{"namespaces":[{"type":"user"}],
            "uidMappings":[{"containerID":0,"hostID":7,"size":1}],"gidMappings":[{"containerID":0,"hostID":8,"size":1}]}}"#;
        assert_eq!(root_on_node(&spec(both)), Some((7, 8)));
        let users = [user(0, maps), user(4, maps), user(5, maps), user(10, maps)];
        assert_eq!(users, [Some(1000), Some(1004), None, Some(7)]);
    }

    /// The options decide which folders the guest may use. Mounts of the system, and mounts of single files, are left out.
    #[test]
    fn preopened_folders() {
        let spec = spec(
            r#"{"ociVersion":"1.1.0","mounts":[
                {"destination":"/proc","type":"proc","source":"proc"},
                {"destination":"/dev/shm","type":"tmpfs","source":"shm"},
                {"destination":"/etc/hosts","type":"bind","source":"/proc/self/status"},
                {"destination":"/data","type":"bind","source":"/tmp"},
                {"destination":"/cache","type":"tmpfs"}]}"#,
        );
        let names = |mode| -> Vec<(String, bool)> {
            preopens(&spec, mode).into_iter().map(|preopen| (preopen.guest, preopen.read_only)).collect()
        };
        let folder = |name: &str, read_only| (name.to_owned(), read_only);
        assert_eq!(names(Preopens::Root), [folder("/", false)]);
        assert_eq!(names(Preopens::ReadOnly), [folder("/", true)]);
        assert_eq!(names(Preopens::Mounts), [folder("/data", false), folder("/cache", false)]);
        assert_eq!(names(Preopens::None), []);
    }

    /// Only the container's own pid namespace ends all its processes.
    #[test]
    fn pid_namespaces() {
        let with = |list: &str| spec(&format!(r#"{{"ociVersion":"1.1.0","linux":{{"namespaces":[{list}]}}}}"#));
        assert!(has_own_pids(&with(r#"{"type":"mount"},{"type":"pid"}"#)));
        assert!(!has_own_pids(&with(r#"{"type":"pid","path":"/proc/1/ns/pid"}"#)));
        assert!(!has_own_pids(&with(r#"{"type":"mount"}"#)));
    }
}
