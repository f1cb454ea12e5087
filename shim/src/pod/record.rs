//! The record of a container in its bundle, with which `delete` can clean up without the daemon.
//!
//! The record is optional: a node whose disk is full runs its containers all the same, and `delete` can work with the bundle's config
//! alone.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prewasi_precompiler::Pin;
use serde::{Deserialize, Serialize};

use crate::node::cgroup::Cgroup;
use crate::node::pid::{Exit, ProcessId};

/// Version of the format; a record of another version is ignored.
const VERSION: u32 = 1;
/// Name of the file in the bundle.
const FILE: &str = "prewasi.json";

/// Name of the file in a container's folder with the claim of its maker.
const CLAIM: &str = "claim.json";

/// The facts about a container that `delete` needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// The helper that builds the container, while it runs.
    pub(crate) helper: Option<ProcessId>,
    /// The init process, as soon as there is one.
    pub(crate) init: Option<ProcessId>,
    /// Its cgroups, as soon as it is in them.
    pub(crate) cgroup: Option<Cgroup>,
    /// The exit of the container.
    pub(crate) exit: Option<RecordedExit>,
}

/// An exit status, with the time as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedExit {
    status: u32,
    /// Seconds since 1970.
    seconds: u64,
    nanos: u32,
}

impl Record {
    /// Reads the record of a bundle; `None` if it is missing or unusable.
    pub(crate) fn load(bundle: &Path) -> Option<Self> {
        let bytes = fs::read(bundle.join(FILE)).ok()?;
        let record: Self = serde_json::from_slice(&bytes).ok()?;
        (record.version == VERSION).then_some(record)
    }

    /// Replaces the record of a bundle.
    ///
    /// # Errors
    /// The system's error; the old record stays.
    pub(crate) fn save(&mut self, bundle: &Path) -> io::Result<()> {
        self.version = VERSION;
        let new: PathBuf = bundle.join(format!("{FILE}.{}", std::process::id()));
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            fs::rename(&new, bundle.join(FILE))
        };
        write().inspect_err(|_| {
            // The first error is the one to report.
            let _ = fs::remove_file(&new);
        })
    }
}

/// The claim of the helper that makes a container, in the container's folder below the runtime folder. With it all parts of the container
/// are found, even if helper and daemon are killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claimed {
    version: u32,
    pub(crate) helper: ProcessId,
    /// The daemon of the container.
    #[serde(default)]
    pub(crate) daemon: Option<ProcessId>,
    /// Name of the container's pod.
    #[serde(default)]
    pub(crate) pod: String,
    #[serde(default)]
    pub(crate) bundle: PathBuf,
    /// The folder of a cgroup that the helper is making, until the cgroup belongs to the container.
    #[serde(default)]
    pub(crate) making: Option<PathBuf>,
    /// Cgroups that belong to the container.
    pub(crate) cgroup: Option<Cgroup>,
    /// The init process, as soon as there is one.
    pub(crate) init: Option<ProcessId>,
    /// The image of the init process's program, if that is wasm.
    #[serde(default)]
    pub(crate) image: Option<Pin>,
}

impl Claimed {
    /// Makes the claim of the calling process.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn by_this_process() -> io::Result<Self> {
        let helper = ProcessId::of(std::process::id().cast_signed())?;
        let (daemon, pod, bundle) = (None, String::new(), PathBuf::new());
        Ok(Self { version: VERSION, helper, daemon, pod, bundle, making: None, cgroup: None, init: None, image: None })
    }

    /// Adds the pod, the bundle and the daemon, which is the parent of the calling process.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn in_pod(self, pod: &str, bundle: &Path) -> io::Result<Self> {
        let daemon = Some(ProcessId::of(std::os::unix::process::parent_id().cast_signed())?);
        Ok(Self { daemon, pod: pod.to_owned(), bundle: bundle.to_owned(), ..self })
    }

    /// Returns whether the container's daemon has ended.
    pub(crate) fn has_no_daemon(&self) -> bool {
        self.daemon.is_some_and(|daemon| !daemon.is_running())
    }

    /// Reads the claim in a container's folder; `None` if it is missing or unusable.
    pub(crate) fn load(folder: &Path) -> Option<Self> {
        let claimed: Self = serde_json::from_slice(&fs::read(folder.join(CLAIM)).ok()?).ok()?;
        (claimed.version == VERSION).then_some(claimed)
    }

    /// Replaces the claim in a container's folder.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn save(&self, folder: &Path) -> io::Result<()> {
        let new = folder.join(format!("{CLAIM}.new"));
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, folder.join(CLAIM))
    }
}

impl From<Exit> for RecordedExit {
    fn from(exit: Exit) -> Self {
        let since = exit.at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { status: exit.status, seconds: since.as_secs(), nanos: since.subsec_nanos() }
    }
}

impl From<RecordedExit> for Exit {
    fn from(exit: RecordedExit) -> Self {
        let at: SystemTime = UNIX_EPOCH + Duration::new(exit.seconds, exit.nanos);
        Self { status: exit.status, at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("prewasi-record-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// A saved record is read back, with the time to the nanosecond; the bundle holds no other file of it.
    #[test]
    fn round_trip() {
        let bundle = bundle("round-trip");
        let exit = Exit { status: 137, at: UNIX_EPOCH + Duration::new(1_700_000_000, 5) };
        let mut record =
            Record { init: Some(ProcessId { pid: 42, start_time: 7 }), exit: Some(exit.into()), ..Record::default() };
        record.save(&bundle).unwrap();
        let loaded = Record::load(&bundle).unwrap();
        assert_eq!(loaded, record);
        assert_eq!(loaded.exit.map(Exit::from), Some(exit));
        assert_eq!(fs::read_dir(&bundle).unwrap().count(), 1);
        fs::remove_dir_all(bundle).unwrap();
    }

    /// A helper's claim is read back; a folder without a claim has none.
    #[test]
    fn helpers_leave_a_note() {
        let folder = bundle("helper");
        assert_eq!(Claimed::load(&folder), None);
        let mut claimed = Claimed::by_this_process().unwrap();
        claimed.save(&folder).unwrap();
        claimed.cgroup = Some(Cgroup::default());
        claimed.save(&folder).unwrap();
        assert_eq!(Claimed::load(&folder), Some(claimed));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }

    /// A missing, truncated or foreign record is ignored.
    #[test]
    fn unusable_records_are_ignored() {
        let bundle = bundle("unusable");
        assert_eq!(Record::load(&bundle), None);
        fs::write(bundle.join(FILE), b"{\"version\":1,\"ini").unwrap();
        assert_eq!(Record::load(&bundle), None);
        fs::write(bundle.join(FILE), br#"{"version":9,"helper":null,"init":null,"cgroup":null,"exit":null}"#).unwrap();
        assert_eq!(Record::load(&bundle), None);
        fs::remove_dir_all(bundle).unwrap();
    }
}
