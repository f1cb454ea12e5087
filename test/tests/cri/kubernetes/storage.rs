//! Volumes: images as volumes, projected tokens below `/var/run`, volumes over the entrypoint, recursive read-only mounts.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use k8s_cri::v1::{ContainerConfig, ImageSpec, Mount};
use oci_tar_builder::Format;
use prewasi_test::cri::{Cri, Pod};
use prewasi_test::image::files;
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};
use prost::Message as _;

use super::super::demo;
use super::super::pods::volume;
use super::{ACCOUNT, Facts, LIKE_RUNC_SUBJECTS, Program, SUBJECTS, assert_alike, both, end, mount_at, node, pod};
use crate::busybox;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(image_volume_is_read_only_and_has_programs, needs Busybox Cni Runc Containerd2_1),
        case!(folder_of_an_image_is_a_volume, needs Busybox Cni Runc Containerd2_2),
        case!(projected_token_is_read_through_var_run, needs Busybox Cni Runc),
        case!(volume_over_the_entrypoint_counts, needs Busybox Cni Runc),
        case!(recursively_read_only_volume_is_so_for_wasm_and_native, needs Busybox Cni Runc Containerd2_1),
    ]
}

/// Runs a container to its end; returns how it ended, and the first line that it printed.
async fn ran(cri: &Cri, pod: &Pod, config: ContainerConfig) -> String {
    let id = match cri.create(pod, config.clone()).await {
        Ok(id) => id,
        Err(status) => return format!("refused: {status}"),
    };
    if cri.start_container(&id).await.is_err() {
        let status = cri.status(&id).await;
        return format!("not started: {} {}", status.exit_code, status.reason);
    }
    let end = end(cri, &id).await;
    let log = cri.log(pod, &config);
    let line = log.iter().find(|(stream, _)| stream == "stdout").map(|(_, text)| text.as_str());
    format!("{end}: {}", line.unwrap_or_default())
}

fn with_mount(config: ContainerConfig, mount: Mount) -> ContainerConfig {
    ContainerConfig { mounts: vec![mount], ..config }
}

/// Describes a container that writes a file.
fn writing(program: Program, name: &str, image: &str, path: &str) -> ContainerConfig {
    match program {
        Program::Native => program.container(name, image, &["sh", "-c", &format!("echo x > {path}")]),
        Program::Wasm => program.container(name, image, &["write", path, "x"]),
    }
}

/// Pulls an image with data and two programs, both of which exit with 7; returns its id, by which the kubelet names an image volume.
async fn volume_image(cri: &Cri) -> String {
    let layer = files(&[
        ("/deep/text", b"of the volume\n", 0o644),
        ("/native", b"#!/bin/busybox sh\nexit 7\n", 0o755),
        ("/wasm", &crate::volumes::exits(7), 0o644),
        ("/bin/busybox", &busybox::bytes(), 0o755),
    ]);
    let name = cri.push("volume:v1", Format::Image, |image| image.os("linux").layer(layer));
    cri.pull(&name).await
}

fn image_mount(image: &str) -> Mount {
    let image = ImageSpec { image: image.to_owned(), ..Default::default() };
    Mount { container_path: "/volume".to_owned(), image: Some(image), readonly: true, ..Default::default() }
}

/// An image as a volume is read-only: its files are read, nothing is written, and its programs run. The volume of an image that has wasm as a
/// layer is an empty folder.
async fn image_volume_is_read_only_and_has_programs(namespace: Namespace) {
    let (cri, image) = node(&namespace).await;
    let content = volume_image(&cri).await;
    let wasm_layer = cri.pull(&demo(&cri).await).await;
    let mut all = Vec::new();
    for subject @ (_, program) in SUBJECTS {
        let pod = pod(&cri, subject, "image").await;
        let with = |config| with_mount(config, image_mount(&content));
        let mut facts = Facts::new();
        let reading = program.reading("/volume/deep/text");
        facts.insert("read".to_owned(), ran(&cri, &pod, with(program.container("read", &image, &reading))).await);
        facts.insert("write".to_owned(), ran(&cri, &pod, with(writing(program, "write", &image, "/volume/new"))).await);
        let path = if program == Program::Native { "/volume/native" } else { "/volume/wasm" };
        let config = ContainerConfig { command: vec![path.to_owned()], ..program.container("program", &image, &[]) };
        facts.insert("its program".to_owned(), ran(&cri, &pod, with(config)).await);
        let config = with(program.ticking("ticking", &image));
        let id = cri.run(&pod, config.clone()).await;
        cri.logs(&pod, &config, "stdout", "tick 1").await;
        facts.insert("mount".to_owned(), format!("{:?}", mount_at(cri.pid(&id).await, "/volume")));
        let config = with_mount(program.ticking("empty", &image), image_mount(&wasm_layer));
        let id = cri.run(&pod, config.clone()).await;
        cri.logs(&pod, &config, "stdout", "tick 1").await;
        let folder = format!("/proc/{}/root/volume", cri.pid(&id).await);
        let entries = fs::read_dir(folder).expect("the volume is mounted").count();
        facts.insert("files of a wasm image".to_owned(), entries.to_string());
        all.push((format!("{subject:?}"), facts));
    }
    let expected = [
        ("read", "0 Completed: of the volume"),
        ("write", "1 Error: "),
        ("its program", "7 Error: "),
        ("files of a wasm image", "0"),
    ];
    for (fact, value) in expected {
        assert_eq!(all[0].1[fact], value, "{fact}");
    }
    assert_alike(&all);
    cri.finish().await;
}

/// A mount with the field of newer releases for a folder of an image.
#[derive(Clone, PartialEq, prost::Message)]
struct MountOfFolder {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(bool, tag = "3")]
    readonly: bool,
    #[prost(message, optional, tag = "9")]
    image: Option<ImageSpec>,
    #[prost(string, tag = "10")]
    image_sub_path: String,
}

/// The fields of a container that are added to its description.
#[derive(Clone, PartialEq, prost::Message)]
struct MountsOfFolders {
    #[prost(message, repeated, tag = "7")]
    mounts: Vec<MountOfFolder>,
}

/// A folder of an image as a volume (`subPath`) has that folder's files.
async fn folder_of_an_image_is_a_volume(namespace: Namespace) {
    let (cri, image) = node(&namespace).await;
    let content = volume_image(&cri).await;
    let mut all = Vec::new();
    for subject @ (_, program) in SUBJECTS {
        let pod = pod(&cri, subject, "folder").await;
        let config = program.container("read", &image, &program.reading("/volume/text"));
        let mounts = vec![MountOfFolder {
            container_path: "/volume".to_owned(),
            readonly: true,
            image: Some(ImageSpec { image: content.clone(), ..Default::default() }),
            image_sub_path: "deep".to_owned(),
        }];
        let newer = MountsOfFolders { mounts }.encode_to_vec();
        let id = cri.create_with(&pod, config.clone(), newer).await.expect("containerd takes it");
        cri.start_container(&id).await.expect("it can be started");
        let end = end(&cri, &id).await;
        all.push((
            format!("{subject:?}"),
            Facts::from([("read".to_owned(), format!("{end} {:?}", cri.log(&pod, &config)))]),
        ));
    }
    assert_eq!(all[0].1["read"], r#"0 Completed [("stdout", "of the volume")]"#);
    assert_alike(&all);
    cri.finish().await;
}

/// Writes a token as the kubelet does: into a folder of its own, to which a link then changes at once.
fn project(folder: &Path, version: &str) {
    let written = "the folder is ours";
    fs::create_dir(folder.join(version)).expect(written);
    fs::write(folder.join(version).join("token"), format!("{version}\n")).expect(written);
    symlink(version, folder.join("..data_tmp")).expect(written);
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect(written);
    if version == "..first" {
        symlink("..data/token", folder.join("token")).expect(written);
    }
}

/// A projected token of a service account is read below `/var/run`, a link of the image to `/run`, and so is the one that takes its place.
async fn projected_token_is_read_through_var_run(namespace: Namespace) {
    let (cri, absolute) = node(&namespace).await;
    let relative = both(&cri, "both:v2", "../run").await;
    let mut all = Vec::new();
    for subject @ (_, program) in SUBJECTS {
        let pod = pod(&cri, subject, "token").await;
        let mut facts = Facts::new();
        for (kind, image) in [("absolute", &absolute), ("relative", &relative)] {
            let folder = cri.daemon.folder().join(format!("{}-{kind}", super::pod_name(subject, "token")));
            fs::create_dir(&folder).expect("the folder is ours");
            project(&folder, "..first");
            let mount = Mount { container_path: ACCOUNT.to_owned(), readonly: true, ..volume(&folder) };
            let config = with_mount(program.ticking(kind, image), mount);
            let id = cri.run(&pod, config.clone()).await;
            cri.logs(&pod, &config, "stdout", "tick 1").await;
            let token = format!("{ACCOUNT}/token");
            let read = async || format!("{:?}", program.exec(&cri, &id, &program.reading(&token)).await);
            facts.insert(format!("{kind}: first"), read().await);
            project(&folder, "..second");
            facts.insert(format!("{kind}: second"), read().await);
            let real = ACCOUNT.trim_start_matches("/var");
            facts.insert(format!("{kind}: mount"), format!("{:?}", mount_at(cri.pid(&id).await, real)));
            let writing: &[&str] = match program {
                Program::Native => &["touch", &token],
                Program::Wasm => &["write", &token, "x"],
            };
            let (code, _) = program.exec(&cri, &id, writing).await;
            facts.insert(format!("{kind}: written"), code.to_string());
        }
        all.push((format!("{subject:?}"), facts));
    }
    for kind in ["absolute", "relative"] {
        let seen = ["first", "second", "written"].map(|fact| &*all[0].1[&format!("{kind}: {fact}")]);
        assert_eq!(seen, [r#"(0, "..first\n")"#, r#"(0, "..second\n")"#, "1"], "{kind}");
    }
    assert_alike(&all);
    cri.finish().await;
}

/// A persistent volume over the folder of the entrypoint brings the program that runs. One without that program refuses the start.
async fn volume_over_the_entrypoint_counts(namespace: Namespace) {
    let (cri, image) = node(&namespace).await;
    let folders = ["full", "empty"].map(|name| cri.daemon.folder().join(name));
    for folder in &folders {
        fs::create_dir(folder).expect("the folder is ours");
    }
    let [full, empty] = &folders;
    fs::write(full.join("native"), "#!/bin/busybox sh\nexit 7\n").expect("the folder is ours");
    fs::set_permissions(full.join("native"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("the file is ours");
    fs::write(full.join("wasm"), crate::volumes::exits(7)).expect("the folder is ours");
    let mut all = Vec::new();
    for subject @ (_, program) in SUBJECTS {
        let pod = pod(&cri, subject, "over").await;
        let path = if program == Program::Native { "/app/native" } else { "/app/wasm" };
        let mut facts = Facts::new();
        let over = |folder: &Path| Some(Mount { container_path: "/app".to_owned(), ..volume(folder) });
        for (name, mount) in [("image", None), ("full", over(full)), ("empty", over(empty))] {
            let config = ContainerConfig {
                command: vec![path.to_owned()],
                mounts: mount.into_iter().collect(),
                ..program.container(name, &image, &[])
            };
            facts.insert(name.to_owned(), ran(&cri, &pod, config).await);
        }
        all.push((format!("{subject:?}"), facts));
    }
    let expected = [("image", "3 Error: "), ("full", "7 Error: "), ("empty", "not started: 128 StartError")];
    for (fact, value) in expected {
        assert_eq!(all[0].1[fact], value, "{fact}");
    }
    assert_alike(&all);
    cri.finish().await;
}

/// `recursiveReadOnly` makes a volume read-only with all that is mounted below; without it, what is below stays writable.
async fn recursively_read_only_volume_is_so_for_wasm_and_native(namespace: Namespace) {
    let (cri, image) = node(&namespace).await;
    let host = crate::mounts::Mounted::new(cri.daemon.folder().join("host"), libc::MS_PRIVATE);
    let below = crate::mounts::Mounted::new(host.path().join("below"), libc::MS_PRIVATE);
    let mut all = Vec::new();
    for subject @ (_, program) in LIKE_RUNC_SUBJECTS {
        let pod = pod(&cri, subject, "recursive").await;
        let mut facts = Facts::new();
        for recursive in [true, false] {
            for path in ["/volume/file", "/volume/below/file"] {
                let mount = Mount { readonly: true, recursive_read_only: recursive, ..volume(host.path()) };
                let name = format!("{recursive}{}", path.replace('/', "-"));
                let config = with_mount(writing(program, &name, &image, path), mount);
                facts.insert(name, ran(&cri, &pod, config).await);
            }
            let mount = Mount { readonly: true, recursive_read_only: recursive, ..volume(host.path()) };
            let config = with_mount(program.ticking(&format!("ticking-{recursive}"), &image), mount);
            let id = cri.run(&pod, config.clone()).await;
            cri.logs(&pod, &config, "stdout", "tick 1").await;
            let pid = cri.pid(&id).await;
            for point in ["/volume", "/volume/below"] {
                facts.insert(format!("{recursive}: {point}"), format!("{:?}", mount_at(pid, point)));
            }
        }
        all.push((format!("{subject:?}"), facts));
    }
    let seen = ["true-volume-file", "true-volume-below-file", "false-volume-file", "false-volume-below-file"];
    assert_eq!(seen.map(|name| &*all[0].1[name]), ["1 Error: ", "1 Error: ", "1 Error: ", "0 Completed: "]);
    assert_alike(&all);
    cri.finish().await;
    drop(below);
}
