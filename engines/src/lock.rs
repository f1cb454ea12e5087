//! Reads Cargo.lock, for tests of the linked versions.

/// Reads the file.
pub(crate) fn text() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).expect("the workspace's Cargo.lock")
}

/// Returns all versions of a crate in the file.
pub(crate) fn versions<'a>(lock: &'a str, name: &str) -> Vec<&'a str> {
    let head = format!("name = \"{name}\"\nversion = \"");
    lock.split(&head).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}
