//! Where a layer that is data may be mounted.

/// The most bytes that Linux takes as a path, and as a name in it.
const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;

/// Says why a path is none at which a file can be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MountPathError {
    /// It does not begin with `/`.
    #[error("it is not absolute")]
    Relative,
    /// It is `/`.
    #[error("it is the root")]
    Root,
    /// It, or a name in it, is longer than Linux takes.
    #[error("it is too long")]
    TooLong,
    /// It would change the terminal or the log that shows it.
    #[error("it has a control character")]
    Control,
    /// It leads up.
    #[error("it has a part \"..\"")]
    Parent,
    /// It has a part that names nothing.
    #[error("it has an empty part, or a part \".\"")]
    Empty,
}

/// Takes the paths that a file can be mounted at: absolute, of plain names alone.
///
/// # Errors
/// [`MountPathError`] says what is wrong.
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

    /// Plain absolute paths are taken.
    #[test]
    fn plain_paths() {
        for path in ["/model.bin", "/data/a", "/data/a b/ü", "/..data", &format!("/{}", "a".repeat(MAX_NAME))] {
            assert_eq!(check_mount_path(path), Ok(()), "{path}");
        }
    }

    /// A path that is none, or that leads elsewhere, is refused for its reason.
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
