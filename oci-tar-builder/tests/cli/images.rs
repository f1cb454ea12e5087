//! Images: their content, and that the same input makes the same bytes.

use std::fs::{File, FileTimes};
use std::time::{Duration, SystemTime};

use oci_tar_builder::{Digest, media_type};

use crate::archive::Archive;
use crate::command::Folder;

/// A tar with one file.
pub(crate) fn tar(content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, "file", content).unwrap();
    tar.into_inner().unwrap()
}

/// A module alone makes a complete image: os from the bytes, entrypoint and name from the file.
#[test]
fn packs_a_module() {
    let folder = Folder::new();
    let archive = folder.pack(&["--module", "demo.wasm"]);
    let config = archive.image_config();
    assert_eq!((config.architecture().to_string(), config.os().to_string()), ("wasm".to_owned(), "wasip1".to_owned()));
    let process = config.config().as_ref().unwrap();
    assert_eq!(process.entrypoint().as_ref().unwrap(), &["demo.wasm"]);
    assert_eq!(config.rootfs().diff_ids().len(), 0);
    assert_eq!(archive.layers(), [("application/wasm".to_owned(), folder.read("demo.wasm"))]);
    assert_eq!(archive.name(), "docker.io/library/demo:latest");
    let manifest = archive.manifest();
    assert_eq!(manifest.config().media_type().to_string(), "application/vnd.oci.image.config.v1+json");
    let title = manifest.layers()[0].annotations().as_ref().unwrap()["org.opencontainers.image.title"].clone();
    assert_eq!(title, "demo.wasm");
}

/// A component is recognised by its bytes.
#[test]
fn packs_a_component() {
    let archive = Folder::new().pack(&["--module", "greet.wasm"]);
    assert_eq!(archive.image_config().os().to_string(), "wasip2");
}

/// Config and manifest contain the settings of the command line unchanged.
#[test]
fn keeps_settings() {
    let archive = Folder::new().pack(&[
        "--module",
        "demo.wasm",
        "--entrypoint",
        "demo.wasm#greet",
        "--entrypoint",
        "-v",
        "--env",
        "A=1",
        "--env",
        "B=x=y ",
        "--stop-signal",
        "SIGRTMIN+3",
        "--label",
        "team=a b",
        "--annotation",
        "note=ü",
        "--os",
        "wasi",
    ]);
    let config = archive.image_config();
    let process = config.config().as_ref().unwrap();
    assert_eq!(process.entrypoint().as_ref().unwrap(), &["demo.wasm#greet", "-v"]);
    assert_eq!(process.env().as_ref().unwrap(), &["A=1", "B=x=y "]);
    assert_eq!(process.labels().as_ref().unwrap()["team"], "a b");
    assert_eq!(process.stop_signal().as_deref(), Some("SIGRTMIN+3"));
    assert_eq!((config.architecture().to_string(), config.os().to_string()), ("wasm".to_owned(), "wasi".to_owned()));
    assert_eq!(archive.manifest().annotations().as_ref().unwrap()["note"], "ü");
}

/// The index names the image as containerd and as readers of layouts look for it. It has no platform, because containerd would leave out
/// images for other platforms than the host's.
#[test]
fn names_the_image() {
    let archive = Folder::new().pack(&["--module", "demo.wasm", "--name", "localhost:5000/a/b:v1"]);
    let target = archive.target();
    let annotations = target.annotations().as_ref().unwrap();
    assert_eq!(annotations["io.containerd.image.name"], "localhost:5000/a/b:v1");
    assert_eq!(annotations["org.opencontainers.image.ref.name"], "v1");
    assert!(target.platform().is_none());
}

/// Docker finds config, layers and name in its own manifest.
#[test]
fn writes_dockers_manifest() {
    let folder = Folder::new();
    folder.write("files.tar", tar(b"x"));
    let layer = format!("{}=files.tar", media_type::TAR);
    let archive = folder.pack(&["-m", "demo.wasm", "--layer", &layer, "--name", "a/b", "--tag", "v1"]);
    let manifest = archive.manifest();
    let path = |digest: &oci_spec::image::Digest| format!("blobs/sha256/{}", digest.digest());
    assert_eq!(
        archive.json("manifest.json"),
        serde_json::json!([{
            "Config": path(manifest.config().digest()),
            "RepoTags": ["docker.io/a/b:v1"],
            "Layers": manifest.layers().iter().map(|layer| path(layer.digest())).collect::<Vec<_>>(),
        }])
    );
}

/// A tar layer has its diff id, a wasm layer none; all layers stand in the order they were given in.
#[test]
fn packs_other_layers() {
    let folder = Folder::new();
    let files = tar(b"content");
    folder.write("files.tar", &files);
    let layers = [format!("{}=files.tar", media_type::TAR), "application/vnd.example+wasm=demo.wasm".to_owned()];
    let archive = folder.pack(&["-m", "demo.wasm", "-m", "demo.wasm", "-l", &layers[0], "-l", &layers[1]]);
    let types: Vec<String> = archive.layers().into_iter().map(|(media_type, _)| media_type).collect();
    assert_eq!(types, ["application/wasm", "application/wasm", media_type::TAR, "application/vnd.example+wasm"]);
    assert_eq!(archive.image_config().rootfs().diff_ids(), &[Digest::of(&files).to_string()]);
}

/// Data stands behind the other layers, with the path at which it is mounted; another path makes another image.
#[test]
fn packs_data() {
    let folder = Folder::new();
    folder.write("model.bin", "weights");
    let pack = |path: &str| folder.pack(&["--data", &format!("model.bin={path}"), "-m", "demo.wasm"]);
    let archive = pack("/data/a=b.bin");
    let layers = [("application/wasm", folder.read("demo.wasm")), (media_type::DATA, b"weights".to_vec())];
    assert_eq!(archive.layers(), layers.map(|(media_type, bytes)| (media_type.to_owned(), bytes)));
    let manifest = archive.manifest();
    let annotations = manifest.layers()[1].annotations().as_ref().unwrap();
    assert_eq!(annotations["prewasi.io/mount"], "/data/a=b.bin");
    assert_eq!(annotations["org.opencontainers.image.title"], "model.bin");
    let config = archive.image_config();
    assert_eq!(config.config().as_ref().unwrap().entrypoint().as_ref().unwrap(), &["demo.wasm"]);
    assert_eq!(config.rootfs().diff_ids().len(), 0);
    assert_eq!(archive.name(), "docker.io/library/demo:latest");
    // Clients know an image by the digest of its config.
    assert_ne!(pack("/other").manifest().config().digest(), manifest.config().digest());
}

/// An ordinary image can be made too, for the machine's own platform.
#[test]
fn packs_an_ordinary_image() {
    let folder = Folder::new();
    folder.write("files.tar", tar(b"content"));
    let archive =
        folder.pack(&["--layer", &format!("{}=files.tar", media_type::TAR), "--os", "linux", "--name", "plain"]);
    let config = archive.image_config();
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    assert_eq!((config.architecture().to_string(), config.os().to_string()), (architecture.into(), "linux".into()));
}

/// The components of a folder are layers in the order of their names; other files are not looked at.
#[test]
fn packs_a_folder_of_components() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("parts")).unwrap();
    let first = wat::parse_str("(component)").unwrap();
    folder.write("parts/b.wasm", folder.read("greet.wasm"));
    folder.write("parts/a.wasm", &first);
    folder.write("parts/README.md", "text");
    let archive = folder.pack(&["--components", "parts"]);
    let expected = [first, folder.read("greet.wasm")].map(|bytes| (media_type::COMPONENT.to_owned(), bytes));
    assert_eq!(archive.layers(), expected);
    assert_eq!(archive.name(), "docker.io/library/a:latest");
}

/// With an index the name stands for the index, which names the platform of its one manifest.
#[test]
fn wraps_in_an_index() {
    let folder = Folder::new();
    let plain = folder.pack(&["-m", "demo.wasm"]);
    let wrapped = folder.pack(&["-m", "demo.wasm", "--platform-index"]);
    let index = wrapped.index();
    let [manifest] = &index.manifests()[..] else { panic!("{index:?}") };
    let platform = manifest.platform().as_ref().unwrap();
    assert_eq!((platform.architecture().to_string(), platform.os().to_string()), ("wasm".into(), "wasip1".into()));
    assert_eq!(manifest.digest(), plain.target().digest(), "the manifest within is the same");
    assert_eq!(wrapped.target().media_type().to_string(), "application/vnd.oci.image.index.v1+json");
    assert_eq!(wrapped.name(), "docker.io/library/demo:latest");
    assert_eq!(wrapped.json("manifest.json"), plain.json("manifest.json"));
}

/// Two programs with the same settings have configs of their own, though neither has a diff id.
#[test]
fn configs_are_unique() {
    let folder = Folder::new();
    let config = |wasm: &str| {
        folder.write("same.wasm", wat::parse_str(wasm).unwrap());
        folder.pack(&["-m", "same.wasm"]).manifest().config().digest().clone()
    };
    assert_ne!(config("(module)"), config("(module (memory 1))"));
}

/// A second run makes the same bytes, also from another folder, by another path, with a newer file and other rights.
#[test]
fn same_input_makes_the_same_bytes() {
    let folder = Folder::new();
    let settings =
        ["--label", "b=1", "--label", "a=2", "--annotation", "z=1", "--annotation", "y=2", "--platform-index"];
    let run = |folder: &Folder, module: &str| {
        folder.pack(&[&settings[..], &["--module", module]].concat());
        folder.read("out.tar")
    };
    let first = run(&folder, "demo.wasm");
    assert!(first == run(&folder, "demo.wasm"), "the second run differs");
    let file = File::options().write(true).open(folder.path().join("demo.wasm")).unwrap();
    file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))).unwrap();
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert!(first == run(&folder, "./demo.wasm"), "time, mode or spelling of the path count");
    let absolute = folder.path().join("demo.wasm");
    assert!(first == run(&Folder::new(), absolute.to_str().unwrap()), "the folder counts");
}

/// `SOURCE_DATE_EPOCH` is the time of the image and of each entry; without it that is 1970.
#[test]
fn honours_source_date_epoch() {
    let folder = Folder::new();
    let pack = |epoch: Option<&str>| {
        let mut command = folder.command(["-m", "demo.wasm", "-o", "out.tar"]);
        if let Some(epoch) = epoch {
            command.env("SOURCE_DATE_EPOCH", epoch);
        }
        assert!(command.output().unwrap().status.success());
        let bytes = folder.read("out.tar");
        let mut times: Vec<u64> =
            tar::Archive::new(&bytes[..]).entries().unwrap().map(|e| e.unwrap().header().mtime().unwrap()).collect();
        times.dedup();
        (times, Archive::read(&bytes).image_config().created().clone().unwrap())
    };
    assert_eq!(pack(None), (vec![0], "1970-01-01T00:00:00Z".to_owned()));
    assert_eq!(pack(Some("1700000000")), (vec![1_700_000_000], "2023-11-14T22:13:20Z".to_owned()));
}
