//! Limits of a guest: tables.

use crate::common::{artifact, run, trials};
use crate::shared::limits::growing;

trials![tables_count_too];

/// The initial elements of tables use the same memory, 16 bytes each; the growth of tables does not count.
fn tables_count_too() {
    let module = artifact(&growing(1, 900));
    for (limit, code) in [("131232", 3), ("131231", 2), ("65696", 2), ("65695", 126)] {
        assert_eq!(run(&module, &["--memory", limit]).code, Some(code), "{limit}");
    }
}
