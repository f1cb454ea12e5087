//! How image and archive are called when a user says much or little.

use crate::command::Folder;

/// Folder, name and tag are put together; a name may be a whole reference.
#[test]
fn puts_references_together() {
    let folder = Folder::new();
    for (args, name) in [
        (&["--repo", "ghcr.io/me", "--name", "x", "--tag", "v1"][..], "ghcr.io/me/x:v1"),
        (&["--repo", "localhost:5000/me/"], "localhost:5000/me/demo:latest"),
        (&["--repo", "me", "--tag", "v1"], "docker.io/me/demo:v1"),
        (&["--name", "localhost:5000/a/b", "--tag", "v2"], "localhost:5000/a/b:v2"),
        (&["--name", "a:v1", "--tag", "v1"], "docker.io/library/a:v1"),
    ] {
        assert_eq!(folder.pack(&[&["-m", "demo.wasm"][..], args].concat()).name(), name, "{args:?}");
    }
}

/// A reference with the digest that comes out is taken, and Docker gets its tag alone.
#[test]
fn takes_the_right_digest() {
    let folder = Folder::new();
    let digest = folder.pack(&["-m", "demo.wasm"]).target().digest().to_string();
    let archive = folder.pack(&["-m", "demo.wasm", "--name", &format!("a/b:v1@{digest}")]);
    assert_eq!(archive.name(), format!("docker.io/a/b:v1@{digest}"));
    assert_eq!(archive.json("manifest.json")[0]["RepoTags"][0], "docker.io/a/b:v1");
    let archive = folder.pack(&["-m", "demo.wasm", "--name", &format!("a/b@{digest}")]);
    assert_eq!(archive.json("manifest.json")[0]["RepoTags"], serde_json::json!([]));
}

/// The archive is called as the image is and lies in the current folder; its name, digest and size are printed.
#[test]
fn says_what_was_written() {
    let folder = Folder::new();
    let run = folder.run(&["-m", "demo.wasm", "--name", "ghcr.io/me/Prog", "--tag", "v1"]);
    assert_eq!(run.code, Some(1), "a capital letter in a given name is an error");
    folder.write("Prog.wasm", folder.read("demo.wasm"));
    let run = folder.run(&["-m", "Prog.wasm", "--tag", "v1"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    let digest = crate::archive::Archive::read(&folder.read("prog.tar")).target().digest().to_string();
    let size = folder.read("prog.tar").len() as f64 / 1024.0;
    assert_eq!(
        run.stdout,
        format!(
            "docker.io/library/prog:v1\n  digest  {digest}\n  content wasip1 image, 1 layer\n  written prog.tar ({size:.1} KiB)\n"
        )
    );
}

/// Help and version are no errors.
#[test]
fn explains_itself() {
    let folder = Folder::new();
    let help = folder.run(&["--help"]);
    assert_eq!(help.code, Some(0));
    for flag in [
        "--name",
        "--repo",
        "--tag",
        "--module",
        "--layer",
        "--components",
        "--as-artifact",
        "--os",
        "--entrypoint",
        "--env",
        "--label",
        "--annotation",
        "--platform-index",
        "--output",
    ] {
        assert!(help.stdout.contains(flag), "{flag} is not explained:\n{}", help.stdout);
    }
    assert_eq!(folder.run(&["--version"]).stdout, format!("oci-tar-builder {}\n", env!("CARGO_PKG_VERSION")));
}
