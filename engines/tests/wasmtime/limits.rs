//! Limits of a guest: tables.

use crate::common::{artifact, run, trials};
use crate::shared::limits::growing;

trials![tables_count_too];

/// Tables use the same memory, a pointer for each element.
fn tables_count_too() {
    let module = artifact(&growing(0, 900));
    for (options, code) in [(&[][..], 3), (&["--memory", "72816"], 3), (&["--memory", "72815"], 1)] {
        assert_eq!(run(&module, options).code, Some(code), "{options:?}");
    }
}
