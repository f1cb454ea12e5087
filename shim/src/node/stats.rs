//! Metrics of a container, read from its cgroups and reported in containerd's messages for version 1 or 2.
//!
//! The messages equal those of runc's shim, field by field: the kubelet and other readers must not see which shim responds. Kernels
//! differ in their files: a missing value stays zero. containerd asks every second for each container, so each file is read once, and no
//! folder is listed.

mod files;
mod legacy;
mod unified;

use std::fs;
use std::sync::OnceLock;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, Result};

use crate::node::cgroup::Cgroup;

/// Reads the metrics of a container.
///
/// # Errors
/// The message cannot be encoded.
pub(crate) fn read(cgroup: &Cgroup) -> Result<Any> {
    match cgroup.unified() {
        Some(folder) => pack("io.containerd.cgroups.v2.Metrics", &unified::read(folder, page_sizes())),
        None => pack("io.containerd.cgroups.v1.Metrics", &legacy::read(cgroup, page_sizes())),
    }
}

fn pack(type_url: &str, message: &impl Message) -> Result<Any> {
    Ok(Any { type_url: type_url.to_owned(), value: message.write_to_bytes()?, ..Any::default() })
}

/// Returns the sizes of huge pages in the form of the kernel's file names, such as `2MB`. They do not change until a reboot.
fn page_sizes() -> &'static [String] {
    static SIZES: OnceLock<Vec<String>> = OnceLock::new();
    SIZES.get_or_init(|| {
        let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
        let mut sizes: Vec<u64> = entries.filter_map(|entry| kibibytes(entry.file_name().to_str()?)).collect();
        sizes.sort_unstable();
        sizes.into_iter().map(page_size).collect()
    })
}

/// Parses the size in the name of a folder, such as `hugepages-2048kB`.
fn kibibytes(folder: &str) -> Option<u64> {
    folder.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
}

fn page_size(kibibytes: u64) -> String {
    match kibibytes {
        0..0x400 => format!("{kibibytes}KB"),
        0x400..0x10_0000 => format!("{}MB", kibibytes >> 10),
        _ => format!("{}GB", kibibytes >> 20),
    }
}

/// Parses lines of `device hca_handle=N hca_object=N`; the word `max` means no limit.
fn rdma(text: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    let value = |field: &str, name: &str| {
        let value = field.strip_prefix(name)?.strip_prefix('=')?;
        if value == "max" { Some(u32::MAX) } else { value.parse().ok() }
    };
    text.lines().filter_map(move |line| {
        let mut fields = line.split_whitespace();
        let device = fields.next()?;
        Some((device, value(fields.next()?, "hca_handle")?, value(fields.next()?, "hca_object")?))
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use containerd_shim_protos::protobuf::{MessageFull, text_format};

    use super::*;

    /// Makes a folder with files. The caller removes it.
    pub(super) fn folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("prewasi-stats-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in files {
            fs::write(folder.join(file), text).unwrap();
        }
        folder
    }

    /// Compares all nonzero fields of a message, in the order of their numbers; a field that the message's type lacks is named by its
    /// number.
    pub(super) fn assert_fields(message: &impl MessageFull, expected: &str) {
        let words =
            |text: &str| text.replace('{', " { ").replace('}', " } ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(&text_format::print_to_string(message)), words(expected));
    }

    /// Replaces the values of a file of `name value` lines by 1, 2 and so on, so that all differ.
    pub(super) fn numbered(file: &str) -> String {
        let names = file.lines().filter_map(|line| line.split(' ').next());
        names.zip(1..).map(|(name, number)| format!("{name} {number}\n")).collect()
    }

    /// The messages have the type names that containerd's clients expect.
    #[test]
    fn messages_have_names() {
        assert_eq!(read(&Cgroup::default()).unwrap().type_url, "io.containerd.cgroups.v1.Metrics");
        let folder = folder("name", &[]);
        let version_2 = read(&Cgroup::only_unified(&folder)).unwrap();
        assert_eq!(version_2.type_url, "io.containerd.cgroups.v2.Metrics");
        fs::remove_dir_all(folder).unwrap();
    }

    /// Sizes of huge pages are written as in the kernel's file names.
    #[test]
    fn page_sizes_are_named() {
        let name = |folder: &str| kibibytes(folder).map(page_size);
        assert_eq!(name("hugepages-64kB").as_deref(), Some("64KB"));
        assert_eq!(name("hugepages-2048kB").as_deref(), Some("2MB"));
        assert_eq!(name("hugepages-1048576kB").as_deref(), Some("1GB"));
        assert_eq!(name("hugepages-16777216kB").as_deref(), Some("16GB"));
        assert_eq!(name("other"), None);
    }
}
