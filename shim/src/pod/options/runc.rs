//! The options that containerd's clients write for runc. They send them to every runtime, in one of two types: `ctr run --uidmap`, and CRI
//! for pods with a user namespace. Distributions and guides write them into the table of any runtime, by the names that CRI's
//! configuration has for them.
//!
//! Options about streams, the keyring and the root are obeyed. The others concern runc itself, or are not supported; one warning names
//! those.

use containerd_shim_protos::protobuf::{CodedInputStream, Error as ProtobufError, rt};
use toml::{Table, Value};

/// The type in containerd 2.x, and in 1.7 for runtimes that it knows.
pub(super) const OPTIONS: &str = "containerd.runc.v1.Options";
/// The type in containerd 1.7 for all other runtimes.
pub(super) const CREATE_OPTIONS: &str = "containerd.linux.runc.CreateOptions";

/// The obeyed options for runc.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Runc {
    /// Owner of the streams: user and group.
    pub(crate) owner: (Option<u32>, Option<u32>),
    /// Whether the container keeps the keyring of its maker.
    pub(crate) no_new_keyring: bool,
    /// Whether the root filesystem is moved to its place instead of pivoting, as on a node whose root is in memory.
    pub(crate) no_pivot_root: bool,
    /// Names of the ignored options.
    pub(crate) ignored: Vec<&'static str>,
}

/// The treatment of a field.
#[derive(Clone, Copy)]
enum Field {
    User,
    Group,
    NoNewKeyring,
    NoPivotRoot,
    /// Not obeyed; a warning names it.
    Ignored(&'static str),
    /// Irrelevant: for runc's own files and programs, or only for checkpoints.
    Passed,
}

impl Field {
    /// Finds a field by its name in a table.
    fn called(name: &str) -> Self {
        match name {
            "IoUid" => Self::User,
            "IoGid" => Self::Group,
            "NoNewKeyring" => Self::NoNewKeyring,
            "NoPivotRoot" => Self::NoPivotRoot,
            "ShimCgroup" => Self::Ignored("ShimCgroup"),
            "TaskApiAddress" => Self::Ignored("TaskApiAddress"),
            "BinaryName" => Self::Ignored("BinaryName"),
            "Root" => Self::Ignored("Root"),
            // Of runc's checkpoints; SystemdCgroup, because the form of the spec's path says which driver there is.
            _ => Self::Passed,
        }
    }

    /// Finds a field by the number that it has in one of the two types.
    fn of(type_name: &str, number: u32) -> Self {
        if type_name == OPTIONS {
            match number {
                1 => Self::NoPivotRoot,
                2 => Self::NoNewKeyring,
                3 => Self::Ignored("ShimCgroup"),
                4 => Self::User,
                5 => Self::Group,
                12 => Self::Ignored("TaskApiAddress"),
                _ => Self::Passed,
            }
        } else {
            match number {
                1 => Self::NoPivotRoot,
                8 => Self::NoNewKeyring,
                9 => Self::Ignored("ShimCgroup"),
                10 => Self::User,
                11 => Self::Group,
                _ => Self::Passed,
            }
        }
    }
}

/// Reads the table of a runtime, in which other options may stand as well.
///
/// # Errors
/// The name of an option whose value has the wrong type.
pub(super) fn read_table(table: &Table) -> Result<Runc, String> {
    let mut read = Runc::default();
    let number = |value: &Value| value.as_integer().and_then(|number| u32::try_from(number).ok());
    for (name, value) in table {
        match (Field::called(name), value) {
            (Field::User, value) if number(value).is_some() => read.owner.0 = number(value),
            (Field::Group, value) if number(value).is_some() => read.owner.1 = number(value),
            (Field::NoNewKeyring, Value::Boolean(set)) => read.no_new_keyring = *set,
            (Field::NoPivotRoot, Value::Boolean(set)) => read.no_pivot_root = *set,
            // Generated configurations write out empty values.
            (Field::Ignored(name), Value::String(text)) if !text.is_empty() => read.ignored.push(name),
            (Field::User | Field::Group | Field::NoNewKeyring | Field::NoPivotRoot, _) => return Err(name.clone()),
            _ => {}
        }
    }
    Ok(read)
}

/// Reads a message of one of the two types.
///
/// # Errors
/// [`ProtobufError`] if it is malformed.
pub(super) fn read(type_name: &str, message: &[u8]) -> Result<Runc, ProtobufError> {
    const VARINT: u32 = 0;
    let mut input = CodedInputStream::from_bytes(message);
    let mut read = Runc::default();
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        let field = Field::of(type_name, tag >> 3);
        match field {
            Field::User if tag & 7 == VARINT => read.owner.0 = Some(input.read_uint32()?),
            Field::Group if tag & 7 == VARINT => read.owner.1 = Some(input.read_uint32()?),
            Field::NoNewKeyring if tag & 7 == VARINT => read.no_new_keyring = input.read_bool()?,
            Field::NoPivotRoot if tag & 7 == VARINT => read.no_pivot_root = input.read_bool()?,
            Field::Ignored(name) => {
                // Protobuf omits zero and empty text, so this value was set.
                read.ignored.push(name);
                rt::skip_field_for_tag(tag, &mut input)?;
            }
            _ => rt::skip_field_for_tag(tag, &mut input)?,
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table gives the same options. The shim ignores and reports values of k3s and guides that name runc's own files. It does not report
    /// empty values that CRI's configuration writes out.
    #[test]
    fn tables_are_read() {
        let parsed = |text: &str| read_table(&text.parse().unwrap());
        let read = |text: &str| parsed(text).unwrap();
        for (text, name) in
            [("NoPivotRoot = \"true\"", "NoPivotRoot"), ("IoUid = \"5\"", "IoUid"), ("IoGid = -1", "IoGid")]
        {
            assert_eq!(parsed(text), Err(name.to_owned()));
        }
        let of_k3s = read("BinaryName = \"/usr/local/bin/containerd-shim-wasmtime-v1\"\nSystemdCgroup = true");
        assert_eq!(of_k3s, Runc { ignored: vec!["BinaryName"], ..Runc::default() });
        let of_containerd = "BinaryName = \"\"\nCriuImagePath = \"\"\nIoGid = 0\nIoUid = 5\nNoNewKeyring = true\nNoPivotRoot = true\nRoot = \"\"\nShimCgroup = \"\"\nnetwork = \"none\"";
        let owner = (Some(5), Some(0));
        assert_eq!(read(of_containerd), Runc { owner, no_new_keyring: true, no_pivot_root: true, ignored: vec![] });
    }

    /// Both message types, whose numbers differ, give owner and switches; the result names the ignored options.
    #[test]
    fn both_types_are_read() {
        // io_uid 100000, io_gid 200000, systemd_cgroup, shim_cgroup "/s", binary_name "x".
        let message = b"\x20\xa0\x8d\x06\x28\xc0\x9a\x0c\x48\x01\x1a\x02/s\x32\x01x";
        let read_of = |name, message: &[u8]| read(name, message).unwrap();
        let owner = (Some(100_000), Some(200_000));
        let expected = Runc { owner, ignored: vec!["ShimCgroup"], ..Runc::default() };
        assert_eq!(read_of(OPTIONS, message), expected);
        let message = b"\x50\xa0\x8d\x06\x58\xc0\x9a\x0c\x40\x01\x08\x01";
        let expected = Runc { owner, no_new_keyring: true, no_pivot_root: true, ignored: vec![] };
        assert_eq!(read_of(CREATE_OPTIONS, message), expected);
        assert_eq!(read_of(OPTIONS, b""), Runc::default());
        assert!(read(OPTIONS, b"\x1a\x7f").is_err());
    }
}
