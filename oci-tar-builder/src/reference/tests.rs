//! Texts that are references and texts that are not, hostile ones included.

use super::*;

const SHA256: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn reference(text: &str) -> Reference {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn problem(text: &str) -> Problem {
    text.parse::<Reference>().map(|reference| panic!("{text:?} was read as {reference}")).unwrap_err().problem
}

/// Short names are completed with the default registry, its folder, and the tag `latest`.
#[test]
fn completes_short_names() {
    for (text, whole) in [
        ("demo", "docker.io/library/demo:latest"),
        ("demo:v1", "docker.io/library/demo:v1"),
        ("me/demo", "docker.io/me/demo:latest"),
        ("docker.io/demo", "docker.io/library/demo:latest"),
        ("index.docker.io/demo", "docker.io/library/demo:latest"),
        ("index.docker.io/me/demo", "docker.io/me/demo:latest"),
        ("localhost/demo", "localhost/demo:latest"),
        // Without a slash, the part after the colon is a tag and never a port.
        ("localhost:5000", "docker.io/library/localhost:5000"),
    ] {
        assert_eq!(reference(text).or_latest().to_string(), whole, "{text}");
    }
}

/// Registry, path, tag and digest are told apart, ports and IPv6 addresses included.
#[test]
fn takes_references_apart() {
    let parts = |text: &str| {
        let r = reference(text);
        (r.domain, r.path, r.tag.unwrap_or_default(), r.digest.unwrap_or_default())
    };
    let own = |a: &str, b: &str, c: &str, d: &str| (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned());
    assert_eq!(parts("localhost:5000/a/b:v1"), own("localhost:5000", "a/b", "v1", ""));
    assert_eq!(parts("localhost:5000/a/b"), own("localhost:5000", "a/b", "", ""));
    assert_eq!(parts("ghcr.io/a/b-c/d_e:V1.2_x-y"), own("ghcr.io", "a/b-c/d_e", "V1.2_x-y", ""));
    assert_eq!(parts(&format!("a.b:80/c@{SHA256}")), own("a.b:80", "c", "", SHA256));
    assert_eq!(parts(&format!("c:v1@{SHA256}")), own("docker.io", "library/c", "v1", SHA256));
    assert_eq!(parts("[::1]:5000/a:b"), own("[::1]:5000", "a", "b", ""));
    assert_eq!(parts("[fe80::1]/a"), own("[fe80::1]", "a", "", ""));
    // A capital letter cannot be in a path, so it makes a registry.
    assert_eq!(parts("Registry/a"), own("Registry", "a", "", ""));
}

/// A reference that is printed and read again is the same reference.
#[test]
fn survives_printing() {
    for text in ["demo", "localhost:5000/a/b:v1", "[::1]/a__b/c--d.e", &format!("a/b:v1@{SHA256}")] {
        let first = reference(text);
        assert_eq!(reference(&first.to_string()), first);
    }
}

/// The object is the part after the name: tag, digest or both.
#[test]
fn has_an_object() {
    assert_eq!(reference("a:v1").object(), "v1");
    assert_eq!(reference(&format!("a@{SHA256}")).object(), format!("@{SHA256}"));
    assert_eq!(reference(&format!("a:v1@{SHA256}")).object(), format!("v1@{SHA256}"));
}

/// A digest needs no tag, and a tag that is there stays.
#[test]
fn latest_is_for_bare_names() {
    assert_eq!(reference(&format!("a@{SHA256}")).or_latest().tag(), None);
    assert_eq!(reference("a:v1").or_latest().tag(), Some("v1"));
}

/// A tag can be given afterwards, if it is one.
#[test]
fn takes_a_tag() {
    assert_eq!(reference("a").with_tag("v1").unwrap().to_string(), "docker.io/library/a:v1");
    for tag in ["", "a:b", "a/b", ".a", "-a", "a b", "sha256:00", "@sha256:00"] {
        assert_eq!(reference("a").with_tag(tag).unwrap_err().problem, Problem::Tag, "{tag:?}");
    }
}

/// A name has to be there.
#[test]
fn refuses_no_name() {
    for text in ["", ":v1", "localhost/", "localhost:5000/", "localhost:5000/:v1", &format!("@{SHA256}")] {
        assert_eq!(problem(text), Problem::NoName, "{text:?}");
    }
}

/// A registry is a host name or an address in brackets, with digits as its port.
#[test]
fn refuses_bad_registries() {
    for text in [
        "https://ghcr.io/a",
        "user:pass/a",
        "a..b/c",
        ".a/b",
        "a./b",
        "-a.b/c",
        "a-.b/c",
        "a.b:/c",
        "a.b:port/c",
        "a.b:80:80/c",
        "a_b.c/d",
        "..:5000/x",
        "../../etc/passwd",
        "[]:1/a",
        "[::1/a",
        "[::g]/a",
        "[::1]x/a",
        "[::1]:/a",
        "é.com/a",
        "a.b\n/c",
    ] {
        assert_eq!(problem(text), Problem::Domain, "{text:?}");
    }
}

/// A path has lower-case words and single separators; nothing that a file system or a shell would read otherwise.
#[test]
fn refuses_bad_paths() {
    for text in [
        "/a",
        "a//b",
        "a/",
        "/",
        "-",
        "-a",
        "a-",
        "a._b",
        "a___b",
        "a..b",
        "_a",
        "a/../b",
        "a b",
        " a",
        "a ",
        "a\nb",
        "a\0b",
        "a;rm",
        "a\\b",
        "a%2fb",
        "é",
        "a/é",
        "ａ",
        "\u{202e}a",
        "a\u{200b}",
        "[::1]",
    ] {
        let found = problem(text);
        assert!(matches!(found, Problem::Path | Problem::Tag | Problem::NoName), "{text:?}: {found:?}");
    }
    assert_eq!(problem("Demo"), Problem::UpperCase);
    assert_eq!(problem("localhost/a/B"), Problem::UpperCase);
}

/// A tag has its own letters and length.
#[test]
fn refuses_bad_tags() {
    for text in ["a:", "a:v1:v2", "a:.x", "a:-x", "b/a:x/y", "a:v 1", "a:é", "a:v1\n"] {
        assert_eq!(problem(text), Problem::Tag, "{text:?}");
    }
    assert_eq!(reference(&format!("a:{}", "x".repeat(128))).tag().unwrap().len(), 128);
    assert_eq!(problem(&format!("a:{}", "x".repeat(129))), Problem::Tag);
}

/// A digest has a known algorithm and all of its lower-case digits.
#[test]
fn refuses_bad_digests() {
    for digest in [
        "",
        "sha256",
        "sha256:",
        "sha256:00",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        &SHA256.to_uppercase(),
        &SHA256.replace("e3b0", "E3B0"),
        &format!("{SHA256}0"),
        &format!("{SHA256}@{SHA256}"),
        &format!("{SHA256}/x"),
        "sha256:../../../../../../../../../../../../../../../../../../../../etc",
    ] {
        assert_eq!(problem(&format!("a@{digest}")), Problem::Digest, "{digest:?}");
    }
    assert!(format!("a@sha512:{}", "0".repeat(128)).parse::<Reference>().is_ok());
}

/// Names have a greatest length, registry and completed folder included.
#[test]
fn refuses_long_names() {
    let longest = 255 - "docker.io/library/".len();
    assert!("a".repeat(longest).parse::<Reference>().is_ok());
    assert_eq!(problem(&"a".repeat(longest + 1)), Problem::TooLong);
    assert_eq!(problem("a/".repeat(1 << 20).trim_end_matches('/')), Problem::TooLong);
}

/// A name that is 64 hex digits would be taken for an image id.
#[test]
fn refuses_ids() {
    assert_eq!(problem(&"a1".repeat(32)), Problem::LooksLikeId);
    assert!("g1".repeat(32).parse::<Reference>().is_ok());
}

/// The parser reads or refuses every short text of a few odd characters, and reads its own output as the same reference.
#[test]
fn every_short_text_is_read_or_refused() {
    const LETTERS: [char; 12] = ['a', 'Z', '0', '.', ':', '/', '@', '-', '_', '[', ']', 'é'];
    let mut texts = vec![String::new()];
    for _ in 0..5 {
        texts = texts.iter().flat_map(|text| LETTERS.map(|letter| format!("{text}{letter}"))).collect();
        for text in &texts {
            if let Ok(first) = text.parse::<Reference>() {
                let again: Reference = first.to_string().parse().unwrap_or_else(|error| panic!("{text:?}: {error}"));
                assert_eq!(again, first, "{text:?}");
            }
        }
    }
}

/// Control characters are escaped and long text is cut in the message.
#[test]
fn message_is_printable() {
    let error = "a\u{1b}[31m".parse::<Reference>().unwrap_err().to_string();
    assert!(error.starts_with(r#"cannot use reference "a\u{1b}[31m": "#), "{error}");
    let error = "A".repeat(1 << 20).parse::<Reference>().unwrap_err().to_string();
    assert!(error.len() < 300, "{}", error.len());
}
