//! Limits of a guest: tables.

use crate::common::{artifact, run, trials};
use crate::shared::limits::growing;

trials![tables_count_too];

/// Tables use the same memory, 8 bytes for each element: a new table may grow by an eighth of the rest.
fn tables_count_too() {
    let module = artifact(&growing(0, 900));
    for (options, code) in [(&[][..], 3), (&["--memory", "200000"], 3), (&["--memory", "100000"], 1)] {
        assert_eq!(run(&module, options).code, Some(code), "{options:?}");
    }
}
