//! `/etc/passwd`: names and home folders of users.

use std::ffi::{CStr, CString};
use std::path::Path;

use crate::LookupError;
use crate::file::read;

/// The list of users.
const USERS: &str = "/etc/passwd";
/// Longest list that is read, in bytes.
const USERS_LIMIT: u64 = 4 << 20;
/// Longest line that is parsed, in bytes.
const LONGEST_LINE: usize = 4096;

/// A user, with the attributes that programs need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: CString,
    /// Number of its primary group.
    pub gid: u32,
    /// Path of its home folder.
    pub home: CString,
    /// Path of its login shell.
    pub shell: CString,
}

/// Returns the first user with this number; `None` without one.
///
/// # Errors
/// [`LookupError::File`]: the list cannot be used.
pub fn user(uid: u32) -> Result<Option<User>, LookupError> {
    let text = read(Path::new(USERS), USERS_LIMIT)?.unwrap_or_default();
    Ok(find(&text, uid))
}

/// Finds a user. Malformed lines are skipped.
fn find(text: &[u8], uid: u32) -> Option<User> {
    let mut lines = text.split(|byte| *byte == b'\n').filter(|line| line.len() <= LONGEST_LINE);
    lines.find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let &[name, _, number, gid, _, home, shell] = fields.as_slice() else { return None };
        (number_of(number)? == uid).then_some(())?;
        let text = |field| CString::new(field).ok();
        Some(User { name: text(name)?, gid: number_of(gid)?, home: text(home)?, shell: text(shell)? })
    })
}

fn number_of(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

impl User {
    /// Returns the user's texts: name, home, shell.
    pub fn texts(&self) -> [&CStr; 3] {
        [&self.name, &self.home, &self.shell]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first line with the number counts; comments, malformed lines, and lines without an end are skipped.
    #[test]
    fn users_are_found() {
        let long = format!("long:x:7:7::{}:/bin/sh\n", "h".repeat(LONGEST_LINE));
        let text = [
            b"# users\nroot:x:0:0:root:/root:/bin/sh\nbad:x:5:5\nworse:x:y:5::/:/\n\xff:x:6:6::/h\xff:\nnul:x:8:8::/a\0b:/\n+::::::\n",
            long.as_bytes(),
            b"one:x:5:50:One:/home/one:/bin/false\ntwo:x:5:51::/home/two:/bin/sh",
        ]
        .concat();
        let found = find(&text, 5).unwrap();
        assert_eq!(found.texts().map(|text| text.to_str().unwrap()), ["one", "/home/one", "/bin/false"]);
        assert_eq!(found.gid, 50);
        assert_eq!(find(&text, 0).unwrap().home.as_bytes(), b"/root");
        assert_eq!(find(&text, 6).unwrap().home.as_bytes(), b"/h\xff");
        assert_eq!((find(&text, 7), find(&text, 8), find(&text, 9)), (None, None, None));
    }
}
