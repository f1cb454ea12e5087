//! Paths at which a data layer may be mounted.

/// Linux's longest path, and longest name in a path, in bytes.
const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;

/// The reason why no file can be mounted at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MountPathError {
    /// The path does not begin with `/`.
    #[error("it is not absolute")]
    Relative,
    /// The path is `/`.
    #[error("it is the root")]
    Root,
    /// The path, or a name in it, is longer than Linux allows.
    #[error("it is too long")]
    TooLong,
    /// The path contains control characters, which would affect a terminal or a log that shows it.
    #[error("it has a control character")]
    Control,
    /// The path contains `..`.
    #[error("it has a part \"..\"")]
    Parent,
    /// The path contains an empty name or `.`.
    #[error("it has an empty part, or a part \".\"")]
    Empty,
}

/// Checks that a file can be mounted at a path: it must be absolute, and consist of plain names alone.
///
/// # Errors
/// [`MountPathError`] names the reason.
pub fn check_mount_path(path: &str) -> Result<(), MountPathError> {
    let below = path.strip_prefix('/').ok_or(MountPathError::Relative)?;
    let has = |wrong: &[&str]| below.split('/').any(|name| wrong.contains(&name));
    if below.is_empty() {
        Err(MountPathError::Root)
    } else if path.len() > MAX_PATH || below.split('/').any(|name| name.len() > MAX_NAME) {
        Err(MountPathError::TooLong)
    } else if path.contains(char::is_control) {
        Err(MountPathError::Control)
    } else if has(&[".."]) {
        Err(MountPathError::Parent)
    } else if has(&["", "."]) {
        Err(MountPathError::Empty)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain absolute paths are accepted.
    #[test]
    fn plain_paths() {
        for path in ["/model.bin", "/data/a", "/data/a b/ü", "/..data", &format!("/{}", "a".repeat(MAX_NAME))] {
            assert_eq!(check_mount_path(path), Ok(()), "{path}");
        }
    }

    /// Each kind of unusable path is refused for its reason.
    #[test]
    fn odd_paths() {
        use MountPathError::{Control, Empty, Parent, Relative, Root, TooLong};
        let (long, name) = (format!("/{}", "a/".repeat(2048)), format!("/{}", "a".repeat(MAX_NAME + 1)));
        for (path, reason) in [
            ("", Relative),
            ("data/model.bin", Relative),
            ("./a", Relative),
            ("/", Root),
            ("/..", Parent),
            ("/data/../etc/passwd", Parent),
            ("/data/..", Parent),
            ("//data", Empty),
            ("/data//a", Empty),
            ("/data/", Empty),
            ("/./data", Empty),
            ("/a\0b", Control),
            ("/a\nb", Control),
            (&long, TooLong),
            (&name, TooLong),
        ] {
            assert_eq!(check_mount_path(path), Err(reason), "{path:?}");
        }
    }
}
