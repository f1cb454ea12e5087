use std::collections::BTreeSet;

use super::*;

const ALL: Needs = Needs { network: true, processes: true };

fn names(needs: Needs) -> BTreeSet<&'static str> {
    allowed(needs).iter().map(Call::plain_name).collect()
}

/// Every recorded call of an engine is allowed. The record is of x86-64.
#[test]
#[cfg(target_arch = "x86_64")]
fn what_was_recorded_is_allowed() {
    let names = names(ALL);
    let mut engines = 0;
    let lines = include_str!("../recorded.txt").lines().filter_map(|line| line.split_once(": "));
    // Calls that the kernel does not know are recorded as well.
    for (engine, calls) in lines.filter(|(head, _)| !head.ends_with(", unknown")) {
        engines += 1;
        let missing: Vec<_> = calls.split(' ').filter(|call| !names.contains(call)).collect();
        assert_eq!(missing, Vec::<&str>::new(), "{engine}");
        assert!(calls.split(' ').count() > 20, "{engine}: {calls}");
    }
    assert_eq!(engines, 4);
}

/// The table in the documentation equals the list.
#[test]
fn list_is_as_documented() {
    let page = include_str!("../../../../../../docs/security.md");
    let rows = page.lines().skip_while(|line| !line.starts_with("| calls |")).skip(2);
    let rows: Vec<_> = rows.take_while(|line| line.starts_with('|')).collect();
    let found: Vec<String> = groups(ALL)
        .iter()
        .filter(|group| !group.calls.is_empty())
        .map(|group| {
            let calls = group.calls.iter().map(|call| match call.checks {
                [] => format!("`{}`", call.plain_name()),
                _ => format!("`{}`\\*", call.plain_name()),
            });
            format!("| {} | {} |", group.title, calls.collect::<Vec<_>>().join(", "))
        })
        .collect();
    if cfg!(target_arch = "x86_64") {
        assert_eq!(rows, found);
    }
}

/// No call is listed twice, except where a server may do more.
#[test]
fn calls_are_listed_once() {
    let mut seen = BTreeSet::new();
    let again: Vec<_> = groups(ALL)
        .iter()
        .flat_map(|group| group.calls)
        .map(Call::plain_name)
        .filter(|name| !seen.insert(*name))
        .collect();
    assert_eq!(again, ["clone", "prctl", "tgkill"]);
}
