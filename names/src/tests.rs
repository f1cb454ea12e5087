use std::fs;

use rustix::fs::{CWD, Mode};

use super::*;

fn look(root: &Path, name: &str) -> Result<Vec<String>, LookupError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(lookup_below(root, name))?;
    Ok(found.iter().map(ToString::to_string).collect())
}

fn root(hosts: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/hosts"), hosts).unwrap();
    // A query to this server fails.
    fs::write(root.path().join("etc/resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1 use-vc\n")
        .unwrap();
    root
}

/// An address resolves to itself, in each of its forms, and needs neither file nor server.
#[test]
fn addresses_need_no_look_up() {
    let root = tempfile::tempdir().unwrap();
    for (text, address) in [
        ("10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("127.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
    ] {
        assert_eq!(look(root.path(), text).unwrap(), [address]);
    }
}

/// The hosts file comes first, in any case and with non-ASCII letters; without a hosts file, `localhost` resolves to the loopback
/// addresses.
#[test]
fn hosts_come_first() {
    let root = root("10.0.0.1 one\n10.0.0.2 xn--bcher-kva.example\n10.0.0.3 localhost\n");
    assert_eq!(look(root.path(), "ONE").unwrap(), ["10.0.0.1"]);
    assert_eq!(look(root.path(), "one.").unwrap(), ["10.0.0.1"]);
    assert_eq!(look(root.path(), "bücher.example").unwrap(), ["10.0.0.2"]);
    assert_eq!(look(root.path(), "localhost").unwrap(), ["10.0.0.3"]);
    assert_eq!(look(root.path(), "a.localhost").unwrap(), ["127.0.0.1", "::1"]);
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(look(empty.path(), "localhost").unwrap(), ["127.0.0.1", "::1"]);
}

/// A text that cannot be a host's name is refused before a server is queried.
#[test]
fn names_that_are_none() {
    let root = root("");
    let long = format!("{}.example", "l".repeat(64));
    let longer = ["l".repeat(60).as_str(); 5].join(".");
    let endless = "\u{fc}".repeat(1 << 20);
    let LookupError::Invalid { name } = look(root.path(), &endless).unwrap_err() else { panic!("it is a name") };
    assert_eq!(name.chars().count(), 1024);
    for name in ["", ".", "a..b", ".a", "a b", "a\0b", "a/b", "a\\b", "[::1", "300.1.1.1", &long, &longer] {
        let error = look(root.path(), name).unwrap_err();
        assert!(matches!(error, LookupError::Invalid { .. }), "{name:?}: {error}");
    }
}

/// A file that is not regular, or too large, is an error that names it; a pipe or device never blocks the look-up.
#[test]
fn odd_files_are_named() {
    for file in ["hosts", "resolv.conf"] {
        let root = root("");
        let path = root.path().join("etc").join(file);
        fs::remove_file(&path).unwrap();
        let why = |root: &Path| match look(root, "one.example").unwrap_err() {
            LookupError::File { path, source } => (path, source.to_string()),
            other => panic!("{other}"),
        };
        rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert_eq!(why(root.path()), (path.clone(), "it is no regular file".to_owned()));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(why(root.path()).1, "it is no regular file");
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(why(root.path()).1, "it is no regular file");
        fs::remove_file(&path).unwrap();
        fs::write(&path, vec![b'#'; 5 << 20]).unwrap();
        assert!(why(root.path()).1.starts_with("it is larger than "));
    }
}

/// A name that is in no file is sent to the server, which does not exist here.
#[test]
fn servers_come_last() {
    let root = root("10.0.0.1 one\n");
    let error = look(root.path(), "two.example").unwrap_err();
    assert!(matches!(error, LookupError::Unanswered { .. }), "{error}");
}
