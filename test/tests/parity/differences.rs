//! Differences by design. `docs/parity.md` has the reasons.

use std::collections::BTreeSet;

use super::{RUNS, Seen, Subject, WHY};

/// A difference: its rows (all, if none is named), its name, and the values with runc and with ours.
struct Difference {
    subject: Option<Subject>,
    rows: &'static [&'static str],
    name: &'static str,
    is: fn(&str, &str) -> bool,
}

const ALL: &[&str] = &[];

/// Every one of them.
const DIFFERENCES: &[Difference] = &[
    // A guest has a filter of its own, which needs this.
    Difference { subject: Some(Subject::Wasm), rows: ALL, name: "NoNewPrivs", is: |_, ours| ours == "1" },
    Difference { subject: Some(Subject::Wasm), rows: ALL, name: "Seccomp", is: |_, ours| ours == "2" },
    // Devices of an image are out of reach, where nothing can need them.
    Difference { subject: Some(Subject::Wasm), rows: ALL, name: "mount /", is: without_devices },
    Difference {
        subject: Some(Subject::Native),
        rows: ALL,
        name: "mount /",
        is: |runc, ours| runc == ours || without_devices(runc, ours),
    },
    // A guest that writes to its own memory leaves its sandbox.
    Difference { subject: Some(Subject::Wasm), rows: ALL, name: "mount /proc", is: fixed_over },
    // The mount is read-only, its file system need not be.
    Difference {
        subject: None,
        rows: ALL,
        name: "mount /sys",
        is: |runc, ours| {
            let runc_writes = runc.strip_suffix(" ro").map(|runc| format!("{runc} rw"));
            runc == ours || runc_writes.as_deref() == Some(ours)
        },
    },
    // runc 1.1 does not know it.
    Difference {
        subject: None,
        rows: &["names"],
        name: "hostname, domain, msgmax, ttl",
        is: |runc, ours| (runc, ours) == ("box (none) 8192 64", "box example 8192 64"),
    },
    // libcontainer also forbids programs and devices on read-only paths.
    Difference { subject: None, rows: &["read-only paths", "read-only links"], name: "mount /work", is: fixed_further },
    Difference { subject: None, rows: &["read-only links"], name: "mount /open", is: fixed_further },
    // The folder's own mode is equal; here it is an option of the file system.
    Difference {
        subject: None,
        rows: &["tmpfs over a folder with files"],
        name: "mount /work",
        is: |runc, ours| ours == format!("{runc},mode=755"),
    },
    // A guest's library does not tell `/name` from `name`: docs/engines.md. One that is new is made in the working directory, one that is
    // there is not written to.
    Difference {
        subject: Some(Subject::Wasm),
        rows: &["working directory", "working directory that is missing"],
        name: "writes /made",
        is: |_, ours| ours == "true none: entity not found",
    },
    Difference {
        subject: Some(Subject::Wasm),
        rows: &[
            "working directory",
            "working directory that is missing",
            "working directory that is missing, as a user",
            "working directory that a user may not enter",
        ],
        name: "writes /open",
        is: |_, ours| ours == "false file 666 0:0",
    },
    // runc makes the ipc namespace, and with it this file system, before its process is of the container's group.
    Difference {
        subject: None,
        rows: &[
            "--uidmap 0:100000:65536 --gidmap 0:100000:65536",
            "--uidmap 0:100000:65536 --gidmap 0:100000:65536 --user 1000:1000",
        ],
        name: "device /dev/mqueue",
        is: |runc, ours| (runc, ours) == ("folder 1777 100000:0", "folder 1777 100000:100000"),
    },
    // libcontainer allows /dev/console (5:1) to each container, which the cgroup above does not.
    Difference {
        subject: None,
        rows: &["cgroup below another container's"],
        name: RUNS,
        is: |runc, ours| (runc, ours) == ("yes", "no"),
    },
    // Refused, with the reason.
    Difference {
        subject: None,
        rows: &["tmpfs with the files below"],
        name: RUNS,
        is: |runc, ours| (runc, ours) == ("yes", "no"),
    },
];

fn without_devices(runc: &str, ours: &str) -> bool {
    let (first, rest) = runc.split_at(runc.find(',').map_or(0, |at| at + 1));
    ours == format!("{first}nodev,{rest}")
}

fn fixed_further(runc: &str, ours: &str) -> bool {
    ours == runc.replacen("ro,", "ro,nosuid,nodev,noexec,", 1)
}

fn fixed_over(runc: &str, ours: &str) -> bool {
    let fixed = runc.replacen("rw,", "ro,", 1);
    ours == format!("{fixed}; over {runc}")
}

fn known(row: &str, subject: Subject, name: &str) -> Option<&'static Difference> {
    DIFFERENCES.iter().find(|difference| {
        difference.name == name
            && difference.subject.is_none_or(|of| of == subject)
            && (difference.rows.is_empty() || difference.rows.contains(&row))
    })
}

/// Lists where a container is neither as with runc nor different as it should be.
pub(super) fn check(row: &str, subject: Subject, expected: &Seen, seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    let why = seen.get(WHY).map_or("", String::as_str);
    let refused = known(row, subject, RUNS).is_some();
    for (name, expected, seen) in pairs(expected, seen) {
        // A container that is not there has no attributes.
        if (refused || !why.is_empty()) && name != RUNS {
            continue;
        }
        // The guest cannot do these.
        if subject == Subject::Wasm && name == "does" {
            continue;
        }
        let right = match known(row, subject, name) {
            Some(difference) => (difference.is)(expected, seen),
            None => expected == seen,
        };
        if !right {
            found.push(format!("{row}, {subject:?}: {name}:\n  runc: {expected}\n  ours: {seen} {why}"));
        }
    }
    found
}

/// Lists where two runs of one runtime differ.
pub(super) fn between(row: &str, first: &Seen, second: &Seen) -> Vec<String> {
    let pairs = pairs(first, second).into_iter().filter(|(_, first, second)| first != second);
    pairs.map(|(name, first, second)| format!("{row}: {name}:\n  {first}\n  {second}")).collect()
}

fn pairs<'a>(first: &'a Seen, second: &'a Seen) -> Vec<(&'a str, &'a str, &'a str)> {
    let names: BTreeSet<&String> = first.keys().chain(second.keys()).filter(|name| *name != WHY).collect();
    let value = |seen: &'a Seen, name: &str| seen.get(name).map_or("(nothing)", String::as_str);
    names.into_iter().map(|name| (name.as_str(), value(first, name), value(second, name))).collect()
}
