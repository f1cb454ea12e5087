//! What a guest may be denied: tables.

use crate::common::{artifact, run, trials};
use crate::shared::limits::growing;

trials![tables_count_too];

/// Tables are of the same memory as they begin, 16 bytes for each element; what they grow by is not counted.
fn tables_count_too() {
    let module = artifact(&growing(1, 900));
    for (limit, code) in [("131232", 3), ("131231", 2), ("65696", 2), ("65695", 126)] {
        assert_eq!(run(&module, &["--memory", limit]).code, Some(code), "{limit}");
    }
}
