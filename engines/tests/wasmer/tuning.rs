//! Choices of how wasm is compiled and run that are particular to wasmer.

use prewasi_engines::TuningError;

use crate::common::trials;
use crate::compiled::{COUNTS, tuned};
use crate::tuning_of_modules::engine;

trials![fuel_is_refused, baseline_is_refused];

/// There is no fuel: no code counts it, and a guest with fuel does not run.
fn fuel_is_refused() {
    assert_eq!(engine("fuel=yes").err(), Some(TuningError::Fixed { what: "fuel", engine: "wasmer" }));
    let ended = tuned(COUNTS, "", &["--fuel", "10000"]);
    assert_eq!(ended.code, Some(126));
    assert!(ended.stderr.contains("cannot limit how much"), "{}", ended.stderr);
}

/// There is no other CPU than this machine's, not even a lesser one.
fn baseline_is_refused() {
    assert!(matches!(engine("cpu=baseline").err(), Some(TuningError::Fixed { what: "another machine", .. })));
}
