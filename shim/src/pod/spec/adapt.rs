//! The spec for libcontainer, which replaces the bundle's own.
//!
//! libcontainer 0.7 reads some parts of a spec differently from runc. The shim itself implements other parts: cgroups v2 with their
//! limits and devices ([`crate::node::cgroup`]), capabilities that executing a program would change, hooks. libcontainer's spec leaves
//! out the parts that libcontainer must not implement.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use libcontainer::capabilities::CapabilityExt as _;
use libcontainer::oci_spec::runtime::{Capabilities, Capability, Hook, Hooks, Mount, Process, Spec};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

use super::capabilities;
use crate::node::cgroup::Claim;
use crate::pod::hook::{Call, Work};
use crate::pod::job::Stage;

const PROC: &str = "/proc";
/// Path of the running program.
const OWN: &str = "/proc/self/exe";
/// Command of the shim's binary that runs a hook.
pub(crate) const HOOK: &str = "hook";

/// The kind of program of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The kernel executes the program.
    Native,
    /// A wasm program, which runs in this process without an exec.
    Wasm,
}

/// The environment in which a container is built, beside its spec.
pub(crate) struct Surroundings<'a> {
    pub(crate) bundle: &'a Path,
    pub(crate) claim: &'a Claim,
    /// The prepared mounts.
    pub(crate) stage: Option<&'a Stage>,
    /// The file in which hooks write the reason of a failure.
    pub(crate) reasons: Option<RawFd>,
}

/// Makes the spec of a container that is about to be built.
///
/// # Errors
/// The capabilities of this process cannot be read.
pub(crate) fn container(spec: &Spec, with: &Surroundings<'_>, kind: Kind) -> io::Result<Spec> {
    let mut adapted = spec.clone();
    let root = super::root(spec, with.bundle);
    if let Some(own) = adapted.root_mut() {
        own.set_path(root.clone());
    }
    if let Some(own) = adapted.process_mut() {
        process(own, kind)?;
    }
    if let Some(linux) = adapted.linux_mut() {
        let (path, with_limits) = with.claim.for_libcontainer();
        linux.set_cgroups_path(Some(path.to_owned()));
        if !with_limits {
            linux.set_resources(None);
        }
        if kind == Kind::Wasm {
            // A guest with write access there could write into its own process.
            let others = linux.readonly_paths().clone().unwrap_or_default();
            let paths = [PROC.to_owned()].into_iter().chain(others.into_iter().filter(|path| path != PROC));
            linux.set_readonly_paths(Some(paths.collect()));
        }
    }
    if let Some(stage) = with.stage {
        stage.adapt(&mut adapted);
    }
    let hooks = adapted.hooks().clone().map(|hooks| wrapped(hooks, with));
    let missing = !is_there(spec, &root);
    adapted.set_hooks(if missing { Some(make_folder(hooks, with, &root, &super::cwd(spec))) } else { hooks });
    Ok(adapted)
}

/// Adapts the description of a process: a container's first one or an exec process.
///
/// # Errors
/// The capabilities of this process cannot be read.
pub(crate) fn process(process: &mut Process, kind: Kind) -> io::Result<()> {
    if let Some(groups) = process.user().additional_gids().clone() {
        process.user_mut().set_additional_gids(Some(without_duplicates(groups)));
    }
    // `false` equals unset; libcontainer treats them differently, and loads a filter at another time.
    process.set_no_new_privileges(process.no_new_privileges().filter(|forbidden| *forbidden));
    let complete = capabilities::complete(process.capabilities().as_ref());
    process.set_capabilities(Some(complete));
    if kind == Kind::Wasm && !passes_on(process) {
        process.set_capabilities(Some(capabilities::after_exec(process, &available()?)));
    }
    Ok(())
}

/// Removes duplicate groups, as runc does.
fn without_duplicates(groups: Vec<u32>) -> Vec<u32> {
    let mut seen = HashSet::new();
    groups.into_iter().filter(|group| seen.insert(*group)).collect()
}

/// Returns the capabilities to which a wasm process must lower its own. libcontainer cannot set them without losing the inheritable ones.
pub(crate) fn to_be_lowered(process: &Process) -> Option<libcontainer::oci_spec::runtime::LinuxCapabilities> {
    // Lowering gains nothing, so the available capabilities do not matter.
    passes_on(process).then(|| capabilities::after_exec(process, &Capabilities::new()))
}

/// Returns whether a process has inheritable capabilities that it would lose by executing a program.
fn passes_on(process: &Process) -> bool {
    let sets = process.capabilities().as_ref();
    process.user().uid() != 0 && sets.and_then(|sets| sets.inheritable().as_ref()).is_some_and(|set| !set.is_empty())
}

/// Returns the maximum of capabilities for a process made by this one.
fn available() -> io::Result<Capabilities> {
    let permitted = caps::read(None, caps::CapSet::Permitted).map_err(io::Error::other)?;
    Ok(permitted.into_iter().filter(|capability| caps::all().contains(capability)).map(Capability::from_cap).collect())
}

/// Replaces each hook that runs during libcontainer's build by this binary, which runs it correctly: see [`crate::pod::hook`]. `poststop`
/// hooks are left to the shim, which removes the container.
fn wrapped(mut hooks: Hooks, with: &Surroundings<'_>) -> Hooks {
    let outside = with.stage.map(|stage| PathBuf::from(stage.outside()));
    for list in [Hooks::prestart_mut, Hooks::create_runtime_mut] {
        list(&mut hooks).iter_mut().flatten().for_each(|hook| wrap(hook, with, outside.clone()));
    }
    hooks.create_container_mut().iter_mut().flatten().for_each(|hook| wrap(hook, with, None));
    hooks.set_poststop(None);
    hooks
}

fn wrap(hook: &mut Hook, with: &Surroundings<'_>, namespace: Option<PathBuf>) {
    let path = hook.path().clone();
    let args = hook.args().clone().filter(|args| !args.is_empty());
    let args = args.unwrap_or_else(|| vec![path.display().to_string()]);
    let work = Work::Run { bundle: with.bundle.to_owned(), namespace, path, args, timeout: hook.timeout() };
    hook.set_path(PathBuf::from(OWN)).set_args(Some(command(with, work))).set_timeout(None);
}

/// Adds a hook that makes the container's working directory, if it may be missing after all mounts.
fn make_folder(hooks: Option<Hooks>, with: &Surroundings<'_>, root: &Path, path: &Path) -> Hooks {
    let mut hooks = hooks.unwrap_or_default();
    let work = Work::Folder { root: root.to_owned(), path: path.to_owned() };
    let mut hook = Hook::default();
    hook.set_path(PathBuf::from(OWN)).set_args(Some(command(with, work)));
    let mut list = hooks.create_container().clone().unwrap_or_default();
    list.push(hook);
    hooks.set_create_container(Some(list));
    hooks
}

/// Returns the arguments with which this binary does the work of a hook.
fn command(with: &Surroundings<'_>, work: Work) -> Vec<String> {
    let call = Call { reasons: with.reasons, work };
    // The value has only numbers and texts, so encoding does not fail.
    let call = serde_json::to_string(&call).unwrap_or_default();
    vec!["prewasi".to_owned(), HOOK.to_owned(), call]
}

/// Returns whether the working directory certainly exists after all mounts: in the root filesystem with no mount over it, or as a mount.
fn is_there(spec: &Spec, root: &Path) -> bool {
    let path = super::cwd(spec);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let Ok(root) = open(root, flags | OFlags::DIRECTORY, Mode::empty()) else { return false };
    let found =
        openat2(&root, &path, flags | OFlags::DIRECTORY, Mode::empty(), resolve | ResolveFlags::NO_SYMLINKS).is_ok();
    let name = |fd: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
    // Links of the image may redirect the destination of a mount.
    let real = |destination: &Path| {
        let found = openat2(&root, destination, flags, Mode::empty(), resolve).ok()?;
        Some(Path::new("/").join(name(&found)?.strip_prefix(name(&root)?).ok()?))
    };
    let mounts = spec.mounts().as_deref().unwrap_or_default().iter().map(Mount::destination);
    let mounts = mounts.map(|destination| real(destination).unwrap_or_else(|| destination.clone()));
    match mounts.rev().find(|destination| path.starts_with(destination)) {
        Some(destination) => destination == path,
        None => found,
    }
}

#[cfg(test)]
mod tests;
