//! The spec that libcontainer gets in the place of a bundle's own.
//!
//! libcontainer 0.7 reads some of a spec in another way than runc does, and some the shim does itself: cgroups of version 2 with their
//! limits and devices ([`crate::cgroup`]), capabilities that executing a program would change, hooks. What libcontainer shall not do
//! is not in its spec.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use libcontainer::capabilities::CapabilityExt as _;
use libcontainer::oci_spec::runtime::{Capabilities, Capability, Hook, Hooks, Process, Spec};

use super::capabilities;
use crate::cgroup::Claim;

const PROC: &str = "/proc";
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

/// Makes the spec of a container that is about to be built.
///
/// # Errors
/// What the system says of the capabilities of this process.
pub(crate) fn container(spec: &Spec, bundle: &Path, claim: &Claim, kind: Kind) -> io::Result<Spec> {
    let mut adapted = spec.clone();
    let root = super::root(spec, bundle);
    if let Some(own) = adapted.root_mut() {
        own.set_path(root);
    }
    if let Some(own) = adapted.process_mut() {
        process(own, kind)?;
    }
    if let Some(linux) = adapted.linux_mut() {
        let (path, with_limits) = claim.for_libcontainer();
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
    if let Some(hooks) = adapted.hooks().clone() {
        adapted.set_hooks(Some(wrapped(hooks, bundle)));
    }
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

/// Replaces each hook that runs while libcontainer builds by this binary, which runs it with the container's own bundle in its state: see
/// [`crate::hook`]. Hooks for the time after the end are left to the shim, which removes the container.
fn wrapped(mut hooks: Hooks, bundle: &Path) -> Hooks {
    let lists = [Hooks::prestart_mut, Hooks::create_runtime_mut, Hooks::create_container_mut];
    for list in lists {
        list(&mut hooks).iter_mut().flatten().for_each(|hook| wrap(hook, bundle));
    }
    hooks.set_poststop(None);
    hooks
}

fn wrap(hook: &mut Hook, bundle: &Path) {
    let path = hook.path().display().to_string();
    let mut args = vec!["prewasi".to_owned(), HOOK.to_owned(), bundle.display().to_string(), path.clone()];
    args.extend(hook.args().clone().unwrap_or_else(|| vec![path]));
    hook.set_path(PathBuf::from("/proc/self/exe")).set_args(Some(args));
}
