//! Denies the paths that the options keep from a guest, by Landlock, if the kernel has it.
//!
//! The engine gives a guest only its folders in any case. A guest with the whole root filesystem is not restricted.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    path_beneath_rules,
};
use prewasi_engines::Guest;

use super::Needs;

/// Kinds of access that are denied unless a rule allows them; those that a kernel does not know are not denied.
const KNOWN: ABI = ABI::V5;
/// Files that an engine itself reads to find the number of the container's cores.
const CORES: [&str; 2] = ["/proc/self", "/sys/fs/cgroup"];
/// The folder in which a server's processes find their written pages; each has another pid.
const PROCESSES: &str = "/proc";
/// Files for looking up names.
const NAMES: [&str; 6] =
    ["/etc/gai.conf", "/etc/host.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/services"];

/// Denies all paths except the guest's folders, unless it has the whole root.
///
/// # Errors
/// The kernel has Landlock, and refuses.
pub(super) fn close(guest: &Guest, needs: Needs) -> Result<(), RulesetError> {
    if guest.preopens.iter().any(|folder| folder.host == Path::new("/") && !folder.read_only) {
        return Ok(());
    }
    let (all, read) = (AccessFs::from_all(KNOWN), AccessFs::ReadFile | AccessFs::ReadDir);
    let own = CORES.iter().chain(needs.network.then_some(&NAMES).into_iter().flatten());
    let own = own.chain(needs.processes.then_some(&PROCESSES)).map(|path| (Path::new(path), read));
    let folders = guest.preopens.iter().map(|folder| (&*folder.host, if folder.read_only { read } else { all }));
    // The first version of Landlock forbids moving files between folders, under any rules. For a guest no Landlock is better.
    let rules = Ruleset::default().set_compatibility(CompatLevel::SoftRequirement).handle_access(AccessFs::Refer)?;
    let mut rules = rules.set_compatibility(CompatLevel::BestEffort).handle_access(all)?.create()?;
    for (path, access) in own.chain(folders) {
        rules = allow(rules, path, access)?;
    }
    rules.restrict_self().map(drop)
}

/// Allows access below a path, if it exists.
fn allow(
    rules: landlock::RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, RulesetError> {
    rules.add_rules(path_beneath_rules([path], access))
}
