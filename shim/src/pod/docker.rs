//! Facts about a container that Docker knows and does not tell containerd: the image that it runs, and the signal that stops it.
//!
//! Docker before 28, and any Docker without the containerd image store, names no image in the container's record. But its daemon has a
//! folder for each container, with `/etc/hostname` and similar files that it mounts. The daemon notes there its facts about the container.
//! The shim looks for notes only if the container's record has dockerd's label. It reads them only from a file of root's, and only if they
//! are about this very container.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{Mount, Spec};
use prewasi_precompiler::Digest;
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

/// Label that dockerd sets on the record of each of its containers.
pub(crate) const LABEL: &str = "com.docker/engine.bundle.path";
/// The files of a container that Docker's daemon mounts from the container's folder. They lie there under the name that they have in
/// `/etc`.
const MOUNTED: [&str; 3] = ["hostname", "hosts", "resolv.conf"];
/// The file with the notes.
const NOTES: &str = "config.v2.json";
/// Notes are some kilobytes.
const LIMIT: u64 = 4 << 20;

/// The notes of Docker's daemon about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Docker's id of the image: with the containerd image store the digest of its manifest or index, else that of its config.
    pub(crate) id: Digest,
    /// The manifest that was chosen for the container, if Docker keeps its images with containerd.
    pub(crate) manifest: Option<Manifest>,
    /// The name by which the container's user asked for it.
    pub(crate) name: String,
    /// The signal that stops the container.
    pub(crate) stop_signal: String,
}

/// A manifest, as descriptors name it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Notes {
    #[serde(rename = "ID")]
    id: String,
    image: Digest,
    image_manifest: Option<Manifest>,
    #[serde(default)]
    config: Config,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    image: String,
    stop_signal: String,
}

/// Reads Docker's notes about the container `id`; returns `None` if the container is not Docker's, or if the notes cannot be read.
pub(crate) fn noted(id: &str, spec: &Spec) -> Option<Noted> {
    let mounts = spec.mounts().iter().flatten();
    let folders = mounts.filter_map(folder_of_containers);
    let mut notes = folders.map(|folder| folder.join(id).join(NOTES)).filter_map(|path| match read(&path) {
        Ok(bytes) => Some((path, bytes)),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::debug!(path = %path.display(), %error, "notes of Docker cannot be read");
            }
            None
        }
    });
    notes.find_map(|(path, bytes)| match serde_json::from_slice::<Notes>(&bytes) {
        Ok(Notes { id: own, image, image_manifest: manifest, config }) if own == id => {
            Some(Noted { id: image, manifest, name: config.image, stop_signal: config.stop_signal })
        }
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "notes of Docker cannot be used");
            None
        }
    })
}

/// Returns the folder in which Docker has a folder for each container, if the mount is of a file in one of these. With another container's
/// network it is the other's.
fn folder_of_containers(mount: &Mount) -> Option<PathBuf> {
    let source = mount.source().as_ref().filter(|source| source.is_absolute())?;
    let name = MOUNTED.into_iter().find(|name| mount.destination() == &Path::new("/etc").join(name))?;
    (source.file_name()? == name).then(|| source.parent()?.parent().map(Path::to_owned)).flatten()
}

/// Reads a file that belongs to root and that no other user can write.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    let is_roots = metadata.uid() == 0 && metadata.mode() & 0o022 == 0;
    if !metadata.is_file() || !is_roots {
        return Err(io::Error::other("it is no file of root's alone"));
    }
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const ID: &str = "0123";

    fn spec(mounts: &[(&str, &Path)]) -> Spec {
        let mounts: Vec<_> = mounts
            .iter()
            .map(|(destination, source)| serde_json::json!({"destination": destination, "type": "bind", "source": source}))
            .collect();
        serde_json::from_value(serde_json::json!({ "ociVersion": "1.1.0", "mounts": mounts })).unwrap()
    }

    /// The shim finds the notes beside Docker's mounts, also beside those of another container; the notes must be about this container, and
    /// root's.
    #[test]
    fn notes_are_read() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root can make files of root's");
            return;
        }
        let folder = std::env::temp_dir().join(format!("prewasi-docker-{}", std::process::id()));
        fs::create_dir_all(folder.join(ID)).unwrap();
        let path = folder.join(ID).join(NOTES);
        let image = Digest::of(b"image");
        let write = |id: &str, mode: u32| {
            let notes = serde_json::json!({"ID": id, "Image": image.as_str(), "More": 1,
                "ImageManifest": {"mediaType": "m", "digest": image.as_str(), "size": 1},
                "Config": {"Image": "demo", "StopSignal": "SIGINT", "Cmd": null}});
            fs::write(&path, notes.to_string()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write(ID, 0o600);
        let manifest = Manifest { digest: image.clone(), media_type: "m".to_owned() };
        let (name, stop_signal) = ("demo".to_owned(), "SIGINT".to_owned());
        let expected = Some(Noted { id: image.clone(), manifest: Some(manifest), name, stop_signal });
        let own = folder.join(ID).join("hosts");
        let other = folder.join("4567/hostname");
        assert_eq!(noted(ID, &spec(&[("/etc/hosts", &own)])), expected);
        assert_eq!(noted(ID, &spec(&[("/data", &folder), ("/etc/hostname", &other)])), expected);
        assert_eq!(noted(ID, &spec(&[("/etc/resolv.conf", &own)])), None, "the mount is a user's own");
        assert_eq!(noted(ID, &spec(&[("/data/hosts", &own)])), None);
        assert_eq!(noted("4567", &spec(&[("/etc/hosts", &own)])), None);
        write("4567", 0o600);
        assert_eq!(noted(ID, &spec(&[("/etc/hosts", &own)])), None, "they are about another container");
        write(ID, 0o622);
        assert_eq!(noted(ID, &spec(&[("/etc/hosts", &own)])), None, "anybody could have written them");
        fs::rename(&path, folder.join("elsewhere")).unwrap();
        fs::set_permissions(folder.join("elsewhere"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink(folder.join("elsewhere"), &path).unwrap();
        assert_eq!(noted(ID, &spec(&[("/etc/hosts", &own)])), None, "a link is not followed");
        fs::remove_dir_all(folder).unwrap();
    }
}
