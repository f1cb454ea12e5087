//! What differs by design. `docs/parity.md` has the reasons.

use super::{Seen, Subject};

/// A difference: of which rows (all, if none is named), in what, and the values with runc and with ours.
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
];

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
    for (name, expected, seen) in pairs(expected, seen) {
        // The guest cannot do these.
        if subject == Subject::Wasm && name == "does" {
            continue;
        }
        let right = match known(row, subject, name) {
            Some(difference) => (difference.is)(expected, seen),
            None => expected == seen,
        };
        if !right {
            found.push(format!("{row}, {subject:?}: {name}:\n  runc: {expected}\n  ours: {seen}"));
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
    let names: std::collections::BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    let value = |seen: &'a Seen, name: &str| seen.get(name).map_or("(nothing)", String::as_str);
    names.into_iter().map(|name| (name.as_str(), value(first, name), value(second, name))).collect()
}
