//! Corrects the modes of a container's folders that libcontainer creates, or mounts over, with other modes than runc.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{Mount, Spec};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fchmod, fstat, open, openat2};

/// Mode of a folder that libcontainer makes for a device: every user may write to it.
const OPEN: u32 = 0o777;
/// Mode of a folder that runc makes.
const CLOSED: Mode = Mode::from_raw_mode(0o755);

/// Modes for the tmpfs mounts of the spec, by index in the list of mounts.
pub(super) type Modes = Vec<(usize, u32)>;

/// Reads the mode of each folder over which the spec mounts a tmpfs without a `mode` option: runc 1.1 keeps that mode. `root` is the root
/// filesystem of the image: nothing may be mounted or made in it yet.
pub(super) fn modes(spec: &Spec, root: &Path) -> Modes {
    let Ok(root) = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else {
        return Vec::new();
    };
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let mode = |(index, mount): (usize, &Mount)| {
        let destination = mount.destination();
        // A folder inside an earlier mount does not belong to the image.
        let is_hidden = mounts[..index].iter().any(|earlier| destination.starts_with(earlier.destination()));
        if is_hidden || !needs_mode(mount) {
            return None;
        }
        let stat = fstat(folder(&root, destination).ok()?).ok()?;
        Some((index, stat.st_mode & 0o7777))
    };
    mounts.iter().enumerate().filter_map(mode).collect()
}

/// Writes these modes into the spec for libcontainer.
pub(super) fn keep_modes(spec: &mut Spec, modes: &Modes) {
    let Some(mounts) = spec.mounts_mut() else { return };
    for (index, mode) in modes {
        let Some(mount) = mounts.get_mut(*index) else { continue };
        let mut options = mount.options().clone().unwrap_or_default();
        options.push(format!("mode={mode:o}"));
        mount.set_options(Some(options));
    }
}

fn needs_mode(mount: &Mount) -> bool {
    let options = mount.options().as_deref().unwrap_or_default();
    mount.typ().as_deref() == Some("tmpfs") && !options.iter().any(|option| option.starts_with("mode="))
}

/// Corrects the folders that libcontainer has made in `/dev` for devices of the spec: it makes them writable for every user. `init` is
/// the pid of the container's first process, which does not run a program yet.
///
/// # Errors
/// The container's folders cannot be opened, or their mode not changed.
pub(super) fn close_folders(spec: &Spec, init: i32) -> io::Result<()> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let above = |path: &Path| path.ancestors().skip(1).map(Path::to_owned).collect::<Vec<_>>();
    let mut folders: Vec<PathBuf> = devices.iter().flat_map(|device| above(device.path())).collect();
    folders.retain(|path| path.starts_with("/dev") && path != Path::new("/dev"));
    folders.sort_unstable();
    folders.dedup();
    if folders.is_empty() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(format!("/proc/{init}/root"), flags, Mode::empty())?;
    let file_system = fstat(folder(&root, Path::new("/dev"))?)?.st_dev;
    for path in folders {
        let folder = folder(&root, &path)?;
        let stat = fstat(&folder)?;
        if stat.st_dev == file_system && stat.st_mode & 0o7777 == OPEN {
            // The mode cannot be changed through a descriptor with `O_PATH`.
            let opened = rustix::fs::openat(&folder, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            fchmod(opened, CLOSED)?;
        }
    }
    Ok(())
}

/// Opens a folder of a container, without following links.
fn folder(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    match FileType::from_raw_mode(fstat(&found)?.st_mode) {
        FileType::Directory => Ok(found),
        _ => Err(io::ErrorKind::NotADirectory.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn options(spec: &Spec, index: usize) -> Vec<String> {
        spec.mounts().as_ref().unwrap()[index].options().clone().unwrap_or_default()
    }

    /// A tmpfs keeps the mode of the image's folder, unless the spec sets a mode or an earlier mount hides the folder.
    #[test]
    fn modes_are_kept() {
        let root = std::env::temp_dir().join(format!("prewasi-modes-{}", std::process::id()));
        fs::create_dir_all(root.join("work/below")).unwrap();
        fs::set_permissions(root.join("work"), fs::Permissions::from_mode(0o1750)).unwrap();
        let mount = |destination: &str, options: &str| {
            format!(r#"{{"destination":"{destination}","type":"tmpfs","source":"tmpfs","options":[{options}]}}"#)
        };
        let mounts = [
            mount("/work", r#""nosuid""#),
            mount("/work/below", ""),
            mount("/new", ""),
            mount("/work", r#""mode=700""#),
        ];
        let text = format!(r#"{{"ociVersion":"1.0.2","mounts":[{}]}}"#, mounts.join(","));
        let mut spec: Spec = serde_json::from_str(&text).unwrap();
        let modes = modes(&spec, &root);
        keep_modes(&mut spec, &modes);
        assert_eq!(options(&spec, 0), ["nosuid", "mode=1750"]);
        assert_eq!(options(&spec, 3), ["mode=700"]);
        assert!(options(&spec, 1).is_empty() && options(&spec, 2).is_empty());
        fs::remove_dir_all(root).unwrap();
    }
}
