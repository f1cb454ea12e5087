//! Errors and their causes as text.

/// Joins an error and its causes in one line.
pub(crate) fn one_line(causes: impl Iterator<Item = String>) -> String {
    let mut told: Vec<String> = Vec::new();
    for cause in causes {
        // Many errors repeat the text of their source.
        if told.last().is_none_or(|last| !last.ends_with(&cause)) {
            told.push(cause);
        }
    }
    told.join(": ")
}
