//! Parses the URI of a stream, like containerd's own shim.

use crate::percent::decode;

/// Returns the path of a `file:` URI, given the text behind the scheme. The path has no host, query or fragment, and its escapes are
/// resolved. Returns `None` if there is no path.
pub(super) fn path_of_file(uri: &str) -> Option<String> {
    let uri = uri.split_once('#').map_or(uri, |(uri, _)| uri);
    let uri = uri.split_once('?').map_or(uri, |(uri, _)| uri);
    let path = match uri.strip_prefix("//") {
        Some(with_host) => &with_host[with_host.find('/')?..],
        None => uri,
    };
    decode(path, false).filter(|path| path.starts_with('/'))
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
