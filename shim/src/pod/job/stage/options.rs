//! Parses the options of a mount in a spec.

use nix::libc;

use crate::node::mounts::Change;

/// A propagation: one of the kernel's four types, for one mount or for all mounts below it as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Propagation {
    /// `MS_PRIVATE` and its like.
    pub(super) kind: u64,
    pub(super) recursive: bool,
}

impl Propagation {
    /// All mounts become private.
    pub(super) const PRIVATE: Self = Self { kind: libc::MS_PRIVATE, recursive: false };
    /// The propagation of a container's mounts if the spec does not name one.
    pub(super) const DEFAULT: Self = Self { kind: libc::MS_SLAVE, recursive: true };

    /// Parses an option, or `rootfsPropagation`; `None` if the text is no propagation.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (kind, recursive) = match text {
            "private" => (libc::MS_PRIVATE, false),
            "rprivate" => (libc::MS_PRIVATE, true),
            "slave" => (libc::MS_SLAVE, false),
            "rslave" => (libc::MS_SLAVE, true),
            "shared" => (libc::MS_SHARED, false),
            "rshared" => (libc::MS_SHARED, true),
            "unbindable" => (libc::MS_UNBINDABLE, false),
            "runbindable" => (libc::MS_UNBINDABLE, true),
            _ => return None,
        };
        Some(Self { kind, recursive })
    }

    /// Returns whether a mount with this propagation cannot be copied.
    pub(super) fn is_unbindable(self) -> bool {
        self.kind == libc::MS_UNBINDABLE
    }

    /// Converts the propagation to a change of a mount.
    pub(super) fn change(self) -> Change {
        Change { propagation: self.kind, ..Change::default() }
    }
}

/// Attributes that a mount takes from its source, unless its options name at least one of them.
const REPLACED: u64 = libc::MOUNT_ATTR_RDONLY
    | libc::MOUNT_ATTR_NOSUID
    | libc::MOUNT_ATTR_NODEV
    | libc::MOUNT_ATTR_NOEXEC
    | libc::MOUNT_ATTR_NOSYMFOLLOW;
/// Attributes that concern access times.
const TIMES: u64 = libc::MOUNT_ATTR__ATIME | libc::MOUNT_ATTR_NODIRATIME;

/// The options of a mount that shows a folder or file of the node.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct MountOptions {
    /// Whether mounts below the source are shown as well.
    pub(super) with_mounts: bool,
    /// The change of the mount itself.
    pub(super) own: Change,
    /// The change of the mount and of all mounts below it.
    pub(super) all: Change,
    pub(super) propagation: Vec<Propagation>,
    /// Whether the container's user namespace maps the ids of the mount.
    pub(super) mapped: bool,
    /// Whether the container's user namespace also maps the ids of the mounts below.
    pub(super) all_mapped: bool,
}

impl MountOptions {
    /// Clears the source's attributes that the options do not name, as soon as they name one: runc does the same.
    pub(super) fn replaces(mut self) -> Self {
        if self.own != Change::default() {
            let times = self.own.clear != 0 || self.own.set & TIMES != 0;
            self.own.clear |= REPLACED | if times { TIMES } else { 0 };
        }
        self
    }

    /// Parses options in their order. Options for a file system have no effect on a bind mount, as with runc.
    pub(super) fn parse(options: &[String]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            if let Some(propagation) = Propagation::parse(option) {
                parsed.propagation.push(propagation);
            } else if let Some((wanted, attribute)) = attribute(option) {
                parsed.own.set = if wanted { parsed.own.set | attribute } else { parsed.own.set & !attribute };
                parsed.own.clear |= access_time(attribute);
            } else if let Some((wanted, attribute)) = option.strip_prefix('r').and_then(attribute) {
                let all = &mut parsed.all;
                let times = access_time(attribute);
                // The kernel accepts a new access time mode only if all modes are cleared.
                all.clear |= times;
                if wanted {
                    all.set |= attribute;
                } else if times == 0 {
                    all.clear |= attribute;
                }
            } else {
                match option.as_str() {
                    "rbind" => parsed.with_mounts = true,
                    "idmap" => parsed.mapped = true,
                    "ridmap" => (parsed.mapped, parsed.all_mapped) = (true, true),
                    _ => {}
                }
            }
        }
        parsed
    }
}

/// Translates an option to an attribute; the flag is whether to set it.
fn attribute(option: &str) -> Option<(bool, u64)> {
    Some(match option {
        "ro" => (true, libc::MOUNT_ATTR_RDONLY),
        "rw" => (false, libc::MOUNT_ATTR_RDONLY),
        "nosuid" => (true, libc::MOUNT_ATTR_NOSUID),
        "suid" => (false, libc::MOUNT_ATTR_NOSUID),
        "nodev" => (true, libc::MOUNT_ATTR_NODEV),
        "dev" => (false, libc::MOUNT_ATTR_NODEV),
        "noexec" => (true, libc::MOUNT_ATTR_NOEXEC),
        "exec" => (false, libc::MOUNT_ATTR_NOEXEC),
        "nodiratime" => (true, libc::MOUNT_ATTR_NODIRATIME),
        "diratime" => (false, libc::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => (true, libc::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => (false, libc::MOUNT_ATTR_NOSYMFOLLOW),
        "noatime" => (true, libc::MOUNT_ATTR_NOATIME),
        "atime" => (false, libc::MOUNT_ATTR_NOATIME),
        "strictatime" => (true, libc::MOUNT_ATTR_STRICTATIME),
        "nostrictatime" => (false, libc::MOUNT_ATTR_STRICTATIME),
        "relatime" => (true, libc::MOUNT_ATTR_RELATIME),
        "norelatime" => (false, libc::MOUNT_ATTR_RELATIME),
        _ => return None,
    })
}

/// Returns the bits that must be cleared before an access time mode is set; 0 for other attributes.
fn access_time(attribute: u64) -> u64 {
    if attribute & libc::MOUNT_ATTR__ATIME == attribute { libc::MOUNT_ATTR__ATIME } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> MountOptions {
        MountOptions::parse(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
    }

    /// Options change the mount, or with an `r` all mounts below as well; a later option reverses an earlier one.
    #[test]
    fn attributes() {
        let parsed = parse(&["rbind", "ro", "nosuid", "suid", "noexec", "mode=755", "rro", "rnodev", "rexec"]);
        assert!(parsed.with_mounts && !parsed.mapped);
        assert_eq!(parsed.own, Change::set(libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOEXEC));
        let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV;
        assert_eq!(parsed.all, Change { set, clear: libc::MOUNT_ATTR_NOEXEC, propagation: 0 });
        assert_eq!(parse(&["bind", "rw"]), MountOptions::default());
        let mapped = parse(&["ridmap"]);
        assert!(mapped.mapped && mapped.all_mapped);
    }

    /// One named attribute replaces all of the source's; the access time mode stays unless an option names it.
    #[test]
    fn attributes_are_replaced() {
        assert_eq!(parse(&["rbind", "rw", "rro"]).replaces().own, Change::default());
        let own = parse(&["ro"]).replaces().own;
        assert_eq!(own, Change { set: libc::MOUNT_ATTR_RDONLY, clear: REPLACED, propagation: 0 });
        let own = parse(&["nodiratime"]).replaces().own;
        assert_eq!(own, Change { set: libc::MOUNT_ATTR_NODIRATIME, clear: REPLACED | TIMES, propagation: 0 });
        assert_eq!(parse(&["relatime"]).replaces().own, Change { set: 0, clear: REPLACED | TIMES, propagation: 0 });
    }

    /// Setting an access time mode clears all other modes.
    #[test]
    fn access_times() {
        let one = |option: &str| parse(&[option]);
        let all = libc::MOUNT_ATTR__ATIME;
        assert_eq!(one("noatime").own, Change { set: libc::MOUNT_ATTR_NOATIME, clear: all, propagation: 0 });
        assert_eq!(one("rrelatime").all, Change { set: 0, clear: all, propagation: 0 });
        assert_eq!(one("ratime").all, Change { set: 0, clear: all, propagation: 0 });
        assert_eq!(one("nodiratime").own, Change::set(libc::MOUNT_ATTR_NODIRATIME));
    }

    /// Each propagation is parsed with an `r` and without; any other text is `None`.
    #[test]
    fn propagations() {
        let parsed = parse(&["rslave", "unbindable"]).propagation;
        assert_eq!(parsed, [Propagation::DEFAULT, Propagation { kind: libc::MS_UNBINDABLE, recursive: false }]);
        assert_eq!(Propagation::parse("shared"), Some(Propagation { kind: libc::MS_SHARED, recursive: false }));
        assert_eq!(Propagation::parse("rrshared"), None);
    }
}
