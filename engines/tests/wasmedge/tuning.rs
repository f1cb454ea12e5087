//! Choices of how wasm is compiled and run that are particular to WasmEdge.

use prewasi_engines::version_label;

use crate::common::trials;
use crate::compiled::{COUNTS, tuned};
use crate::tuning_of_modules::engine;

trials![fuel_ends_a_guest, fuel_is_a_choice, baseline_is_a_choice];

/// A guest traps when its fuel is used up. It ends as usual with enough fuel, or without a limit.
fn fuel_ends_a_guest() {
    let ended = tuned(COUNTS, "fuel=yes", &["--fuel", "10000", "--forked"]);
    assert_eq!(ended.code, Some(134), "{ended:?}");
    assert!(ended.stderr.contains("all fuel consumed"), "{}", ended.stderr);
    for options in [&["--fuel", "10000000"][..], &[]] {
        assert_eq!(tuned(COUNTS, "fuel=yes", options).code, Some(0), "{options:?}");
    }
}

/// Code that does not count fuel cannot get any: that must not look like a limit.
fn fuel_is_a_choice() {
    let ended = tuned(COUNTS, "", &["--fuel", "10000"]);
    assert_eq!(ended.code, Some(126));
    assert!(ended.stderr.contains("does not count fuel"), "{}", ended.stderr);
}

/// Code for all CPUs of the architecture has a label of its own, and runs.
fn baseline_is_a_choice() {
    assert_ne!(version_label(&*engine("cpu=baseline").unwrap()), version_label(&crate::engine()));
    assert_eq!(tuned(COUNTS, "cpu=baseline", &[]).code, Some(0));
}
