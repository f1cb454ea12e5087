//! Refusals: the input that causes them, their messages, and that they leave no file behind.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use oci_tar_builder::{Builder, Format, Layer, WriteError, media_type};

use crate::command::{Folder, PROGRAM, Run};
use crate::images::tar;

/// Every wrong input ends with 1, and the error names the file and its problem.
#[test]
fn refuses_wrong_input() {
    let folder = Folder::new();
    let module = folder.read("demo.wasm");
    folder.write("empty.wasm", "");
    folder.write("script.wasm", "#!/bin/sh\n");
    folder.write("native.wasm", "\x7fELF\x02\x01\x01\0");
    folder.write("text.wasm", "(module)");
    folder.write("cut.wasm", &module[..module.len() - 3]);
    folder.write("bad.wasm", wat::parse_str("(module (func (result i32)))").unwrap());
    folder.write("files.tar", "no tar");
    folder.write("whole.tar", tar(b"content"));
    std::fs::create_dir(folder.path().join("folder.wasm")).unwrap();
    std::fs::create_dir_all(folder.path().join("modules/x")).unwrap();
    folder.write("modules/a.wasm", &module);
    let sha256 = "0".repeat(64);
    for (args, message) in [
        (&["--name", "a"][..], "there is no module, component or layer to pack"),
        (&[], "there is no module, component or layer to pack"),
        (&["-m", "nowhere.wasm"], "error: cannot read nowhere.wasm\ncaused by: No such file"),
        (&["-m", "folder.wasm"], "error: cannot pack folder.wasm: it is a folder, not a file\nhint: "),
        (&["-m", "/dev/null"], "it is a device, not a file"),
        (&["-m", "empty.wasm"], "error: cannot pack empty.wasm\ncaused by: it is empty\nhint: "),
        (&["-m", "script.wasm"], "error: cannot pack script.wasm\ncaused by: it is not wasm\nhint: "),
        (
            &["-m", "native.wasm"],
            "error: cannot pack native.wasm\ncaused by: it is native code (ELF), which is never loaded from an image\nhint: ",
        ),
        (&["-m", PROGRAM], "caused by: it is native code (ELF)"),
        (&["-m", "text.wasm"], "caused by: it is wasm text, not the binary format\nhint: "),
        (&["-m", "cut.wasm"], "error: cannot pack cut.wasm\ncaused by: it is truncated"),
        (&["-m", "bad.wasm"], "error: cannot pack bad.wasm\ncaused by: it is no valid wasm"),
        (&["-l", "application/wasm=native.wasm"], "caused by: it is native code (ELF)"),
        (&["-l", "application/vnd.oci.image.layer.v1.tar=files.tar"], "cannot pack files.tar: it is no tar"),
        (
            &["-l", "application/vnd.oci.image.layer.v1.tar+gzip=files.tar"],
            "only uncompressed tar layers are supported\nhint: ",
        ),
        (&["-l", "wasm=demo.wasm"], "error: cannot pack demo.wasm as \"wasm\": it is no media type"),
        (
            &["-l", "application/vnd.oci.image.layer.v1.tar=whole.tar"],
            "error: cannot choose the os of docker.io/library/whole:latest: no layer of it is wasm",
        ),
        (
            &["-m", "demo.wasm", "-l", "application/json=files.tar"],
            "no runtime uses files.tar: application/json is neither wasm nor a layer of files, and the layer has no mount path\nhint: --data",
        ),
        (
            &["-m", "demo.wasm", "--os", "linux"],
            "for os \"linux\": it has wasm, which runs on wasip1, wasip2 or wasi\nhint: ",
        ),
        (&["-m", "demo.wasm", "-m", "greet.wasm"], "it has both modules and components\nhint: "),
        (&["--components", "nowhere"], "error: cannot read folder nowhere\ncaused by: "),
        (&["--components", "modules/x"], "there is no .wasm file in it"),
        (&["--components", "modules"], "error: cannot pack modules/a.wasm as a component: it is a module\nhint: "),
        (
            &["-m", "demo.wasm", "-m", "demo.wasm", "--as-artifact"],
            "of 2 layers: a wasm artifact has exactly one\nhint: ",
        ),
        (
            &["-m", "demo.wasm", "--data", "files.tar=/data/../x"],
            "error: cannot mount files.tar at \"/data/../x\"\ncaused by: it has a part \"..\"\nhint: ",
        ),
        (&["-m", "demo.wasm", "--data", "files.tar=/"], "caused by: it is the root\nhint: "),
        (&["-m", "demo.wasm", "--data", "nowhere=/a"], "error: cannot read nowhere\ncaused by: No such file"),
        (
            &["-m", "demo.wasm", "-d", "files.tar=/a", "-d", "files.tar=/a/b"],
            "error: cannot build docker.io/library/demo:latest: /a/b and /a cannot both be mounted",
        ),
        (&["-m", "demo.wasm", "-d", "files.tar=/a", "-d", "demo.wasm=/a"], "/a and /a cannot both be mounted"),
        (&["-d", "files.tar=/a", "--os", "wasip1"], "it has data but no wasm layer; data is for wasm programs\nhint: "),
        (
            &["-l", "application/vnd.oci.image.layer.v1.tar=whole.tar", "--as-artifact"],
            "its layer must be application/wasm",
        ),
        (&["-m", "demo.wasm", "--os", "Wasi P1"], "cannot use os \"Wasi P1\""),
        (&["-m", "demo.wasm", "--name", "https://ghcr.io/a"], "the registry is no valid host or host:port\nhint: "),
        (&["-m", "demo.wasm", "--name", "../../etc/passwd"], "cannot use reference \"../../etc/passwd\""),
        (&["-m", "demo.wasm", "--name", "a", "--repo", "B/c d"], "cannot use reference \"B/c d/a\""),
        (&["-m", "demo.wasm", "--tag", "sha256:00"], "a tag has up to 128 letters"),
        (&["-m", "demo.wasm", "--name", "a@sha256:00"], "expected a digest after @"),
        (&["-m", "demo.wasm", "--name", &format!("a@sha256:{sha256}")], "the image has digest sha256:"),
        (&["-m", "demo.wasm", "--label", "runwasi.io/layers=x"], "cannot set label runwasi.io/layers"),
        (&["-m", "demo.wasm", "-o", "demo.wasm"], "cannot write demo.wasm: it is one of the files to pack"),
        (&["-m", "demo.wasm", "-o", "/dev/null"], "cannot write /dev/null: it exists and is not a file"),
        (&["-m", "demo.wasm", "-o", "folder.wasm"], "cannot write folder.wasm: it exists and is not a file"),
    ] {
        let stderr = folder.refused(1, args);
        assert!(stderr.starts_with("error: ") && stderr.contains(message), "{args:?} said:\n{stderr}");
    }
    assert_eq!(folder.read("demo.wasm"), module, "an input was written to");
}

/// A wrong command line ends with 64.
#[test]
fn refuses_wrong_usage() {
    let folder = Folder::new();
    for args in [
        &["--nonsense"][..],
        &["demo.wasm"],
        &["-m"],
        &["-m", "demo.wasm", "--layer", "application/wasm"],
        &["-m", "demo.wasm", "--layer", "=x"],
        &["-m", "demo.wasm", "--data", "files.tar"],
        &["-m", "demo.wasm", "--data", "files.tar=data"],
        &["-m", "demo.wasm", "--data", "=/data"],
        &["-m", "demo.wasm", "--env", "A"],
        &["-m", "demo.wasm", "--env", "=1"],
        &["-m", "demo.wasm", "--label", "A"],
        &["-m", "demo.wasm", "--as-artifact", "--entrypoint", "x"],
        &["-m", "demo.wasm", "--as-artifact", "--env", "A=1"],
        &["-m", "demo.wasm", "--as-artifact", "--label", "A=1"],
        &["-m", "demo.wasm", "--as-artifact", "--stop-signal", "SIGINT"],
        &["-m", "demo.wasm", "--name", "a:v1", "--tag", "v2"],
    ] {
        assert!(folder.refused(64, args).starts_with("error: "), "{args:?}");
    }
    for epoch in ["", "-1", "1.5", "yesterday", "99999999999999999999"] {
        let run: Run = folder.command(["-m", "demo.wasm"]).env("SOURCE_DATE_EPOCH", epoch).output().unwrap().into();
        assert_eq!(run.code, Some(64), "{run:?}");
        assert!(run.stderr.starts_with("error: cannot use SOURCE_DATE_EPOCH="), "{run:?}");
    }
}

/// A date that cannot be written is a wrong input.
#[test]
fn refuses_far_dates() {
    let folder = Folder::new();
    let run: Run =
        folder.command(["-m", "demo.wasm"]).env("SOURCE_DATE_EPOCH", u64::MAX.to_string()).output().unwrap().into();
    assert_eq!(run.code, Some(1), "{run:?}");
}

/// An archive that cannot be written ends with 2.
#[test]
fn reports_unwritable_output() {
    let folder = Folder::new();
    let stderr = folder.refused(2, &["-m", "demo.wasm", "-o", "nowhere/out.tar"]);
    assert!(stderr.starts_with("error: cannot write nowhere/out.tar\ncaused by: No such file"), "{stderr}");
    let stderr = folder.refused(2, &["-m", "demo.wasm", "-o", "demo.wasm/out.tar"]);
    assert!(stderr.starts_with("error: cannot write demo.wasm/out.tar\ncaused by: "), "{stderr}");
}

/// Runs the program where no file may be longer than 64 KiB, which a layer of 1 MiB is.
fn run_with_short_files(folder: &Folder, prepare: &str) -> std::process::Output {
    folder.write("big.bin", vec![7; 1 << 20]);
    let script = format!("{prepare} ulimit -f 128; exec \"$0\" -m demo.wasm -d big.bin=/big.bin -o out.tar");
    Command::new("sh").arg("-c").arg(script).arg(PROGRAM).current_dir(folder.path()).output().unwrap()
}

/// When the disk refuses bytes half-way, the old archive stays and no part of a new one is left.
#[test]
fn failed_write_leaves_nothing() {
    let folder = Folder::new();
    folder.write("out.tar", "old");
    let run: Run = run_with_short_files(&folder, "trap '' XFSZ;").into();
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.starts_with("error: cannot write out.tar\ncaused by: File too large"), "{run:?}");
    assert_eq!(folder.read("out.tar"), b"old");
    assert_eq!(folder.names(), ["big.bin", "demo.wasm", "greet.wasm", "out.tar"]);
}

/// When a signal kills the program half-way, nothing is left either.
#[test]
fn killed_write_leaves_nothing() {
    let folder = Folder::new();
    let output = run_with_short_files(&folder, "ulimit -c 0;");
    // The kernel sends the signal with the write that is one too many: it cannot come before or after.
    assert_eq!(output.status.signal(), Some(rustix::process::Signal::XFSZ.as_raw()), "{output:?}");
    assert_eq!(folder.names(), ["big.bin", "demo.wasm", "greet.wasm"]);
}

/// A file that changes after it was checked is not packed, and the archive does not appear.
#[test]
fn changed_input_is_noticed() {
    let folder = Folder::new();
    let path = folder.path().join("demo.wasm");
    let old = folder.read("demo.wasm");
    let longer = [&old[..], b"\0\x02\x01x"].concat();
    let other: Vec<u8> = old.iter().map(|byte| byte ^ 1).collect();
    for new in [&longer[..], &other, &old[1..], b""] {
        folder.write("demo.wasm", &old);
        let image = Builder::new(Format::Image, "demo".parse().unwrap())
            .layer(Layer::read(media_type::WASM, &path).unwrap())
            .build()
            .unwrap();
        folder.write("demo.wasm", new);
        let error = image.write_file(&folder.path().join("out.tar")).unwrap_err();
        assert!(matches!(&error, WriteError::Changed { path: changed } if *changed == path), "{error}");
        assert_eq!(folder.names(), ["demo.wasm", "greet.wasm"]);
    }
}

/// A link to an archive stays a link: the packer replaces the file behind it.
#[test]
fn follows_links() {
    let folder = Folder::new();
    folder.write("real.tar", "old");
    std::os::unix::fs::symlink("real.tar", folder.path().join("out.tar")).unwrap();
    folder.pack(&["-m", "demo.wasm"]);
    assert!(folder.path().join("out.tar").is_symlink());
    assert!(folder.read("real.tar").len() > 1000);
}
