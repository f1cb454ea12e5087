//! The spec that libcontainer gets in the place of a bundle's own.
//!
//! libcontainer 0.7 reads some of a spec in another way than runc does, and some the shim does itself: cgroups of version 2 with their
//! limits and devices ([`crate::node::cgroup`]), capabilities that executing a program would change, hooks. What libcontainer shall not do
//! is not in its spec.

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
/// The program that runs now.
const OWN: &str = "/proc/self/exe";
/// Command of the shim's binary that runs a hook.
pub(crate) const HOOK: &str = "hook";

/// What a process of a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A program that the kernel executes.
    Native,
    /// A wasm program, for which this process stays as it is.
    Wasm,
}

/// What a container is built with, beside its spec.
pub(crate) struct Surroundings<'a> {
    pub(crate) bundle: &'a Path,
    pub(crate) claim: &'a Claim,
    /// The mounts that have been made already.
    pub(crate) stage: Option<&'a Stage>,
    /// Where hooks say why they fail.
    pub(crate) reasons: Option<RawFd>,
}

/// Makes the spec of a container that is about to be built.
///
/// # Errors
/// What the system says of the capabilities of this process.
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
            // A guest that may write there could write into its own process.
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

/// Adapts what is said of a process, of a container's first one or of a later one.
///
/// # Errors
/// What the system says of the capabilities of this process.
pub(crate) fn process(process: &mut Process, kind: Kind) -> io::Result<()> {
    if let Some(groups) = process.user().additional_gids().clone() {
        process.user_mut().set_additional_gids(Some(without_duplicates(groups)));
    }
    // libcontainer loads a filter at another time if this is `false` than if it is missing.
    process.set_no_new_privileges(process.no_new_privileges().filter(|forbidden| *forbidden));
    let complete = capabilities::complete(process.capabilities().as_ref());
    process.set_capabilities(Some(complete));
    if kind == Kind::Wasm && !passes_on(process) {
        process.set_capabilities(Some(capabilities::after_exec(process, &available()?)));
    }
    Ok(())
}

/// Keeps the first of equal groups, as runc does.
fn without_duplicates(groups: Vec<u32>) -> Vec<u32> {
    let mut seen = HashSet::new();
    groups.into_iter().filter(|group| seen.insert(*group)).collect()
}

/// Returns the capabilities that a wasm process has to lower itself, because libcontainer could not set what it can pass on
/// otherwise.
pub(crate) fn to_be_lowered(process: &Process) -> Option<libcontainer::oci_spec::runtime::LinuxCapabilities> {
    // Nothing is gained by lowering: what is available does not count.
    passes_on(process).then(|| capabilities::after_exec(process, &Capabilities::new()))
}

/// Says whether a process can pass on capabilities that executing a program would take from it.
fn passes_on(process: &Process) -> bool {
    let sets = process.capabilities().as_ref();
    process.user().uid() != 0 && sets.and_then(|sets| sets.inheritable().as_ref()).is_some_and(|set| !set.is_empty())
}

/// Returns the most that a process made by this one can have.
fn available() -> io::Result<Capabilities> {
    let permitted = caps::read(None, caps::CapSet::Permitted).map_err(io::Error::other)?;
    Ok(permitted.into_iter().filter(|capability| caps::all().contains(capability)).map(Capability::from_cap).collect())
}

/// Replaces each hook that runs while libcontainer builds by this binary, which runs it as it should be run: see [`crate::pod::hook`]. Hooks for
/// the time after the end are left to the shim, which removes the container.
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

/// Has the container's working directory made, if it may be missing when all is mounted.
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
    // It is made of numbers and texts alone.
    let call = serde_json::to_string(&call).unwrap_or_default();
    vec!["prewasi".to_owned(), HOOK.to_owned(), call]
}

/// Says whether the working directory is certainly there when all is mounted: in the root filesystem with nothing mounted over it, or a
/// mount itself.
fn is_there(spec: &Spec, root: &Path) -> bool {
    let path = super::cwd(spec);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let Ok(root) = open(root, flags | OFlags::DIRECTORY, Mode::empty()) else { return false };
    let found =
        openat2(&root, &path, flags | OFlags::DIRECTORY, Mode::empty(), resolve | ResolveFlags::NO_SYMLINKS).is_ok();
    let name = |fd: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
    // Links of the image may lead from where something is mounted to another place.
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
