//! Closes off the paths that the options keep from a guest, by Landlock, where the kernel has it.
//!
//! The engine gives a guest nothing but its folders in any case. A guest that has all of the root filesystem is not
//! narrowed, so there is nothing to close.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    path_beneath_rules,
};
use prewasi_engines::Guest;

use super::Needs;

/// Accesses that are denied where nothing allows them; of those that a kernel does not know yet, it denies none.
const KNOWN: ABI = ABI::V5;
/// What an engine reads for itself: how many cores the container has.
const CORES: [&str; 2] = ["/proc/self", "/sys/fs/cgroup"];
/// Where the processes of a server find which of their pages were written to; each has another number.
const PROCESSES: &str = "/proc";
/// How names are looked up.
const NAMES: [&str; 6] =
    ["/etc/gai.conf", "/etc/host.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/services"];

/// Closes all paths but those that the guest has, if it has less than all.
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
    // The first Landlock keeps every file in its folder, whatever is allowed. A guest is better off without that.
    let rules = Ruleset::default().set_compatibility(CompatLevel::SoftRequirement).handle_access(AccessFs::Refer)?;
    let mut rules = rules.set_compatibility(CompatLevel::BestEffort).handle_access(all)?.create()?;
    for (path, access) in own.chain(folders) {
        rules = allow(rules, path, access)?;
    }
    rules.restrict_self().map(drop)
}

/// Allows something below a path, if there is such a path.
fn allow(
    rules: landlock::RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, RulesetError> {
    rules.add_rules(path_beneath_rules([path], access))
}
