//! Parses the URI of a stream, like containerd's own shim.

/// Returns the path of a `file:` URI, from the part after the scheme: without host, query and fragment, with resolved escapes. `None`
/// without a path.
pub(super) fn path_of_file(uri: &str) -> Option<String> {
    let uri = uri.split_once('#').map_or(uri, |(uri, _)| uri);
    let uri = uri.split_once('?').map_or(uri, |(uri, _)| uri);
    let path = match uri.strip_prefix("//") {
        Some(with_host) => &with_host[with_host.find('/')?..],
        None => uri,
    };
    decode(path, false).filter(|path| path.starts_with('/'))
}

/// Resolves escapes such as `%20`, and in a query `+` as a space. `None` if the result is no valid text.
pub(super) fn decode(text: &str, query: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => {
                let digits = tail.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = &tail[2..];
            }
            b'+' if query => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Escapes are resolved, a plus sign stays, and host, query and fragment are no part of the path.
    #[test]
    fn paths_of_files() {
        let path = |uri| path_of_file(uri);
        assert_eq!(path("///my%20log%3F%23%25"), Some("/my log?#%".to_owned()));
        assert_eq!(path("///a+b?maxsize=1#end"), Some("/a+b".to_owned()));
        assert_eq!(path("/a"), Some("/a".to_owned()));
        assert_eq!(path("//localhost/a/b"), Some("/a/b".to_owned()));
        for bad in ["", "//", "//host", "a/b", "///%zz", "///%2", "///%ff"] {
            assert_eq!(path(bad), None, "{bad:?}");
        }
    }
}
