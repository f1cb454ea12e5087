//! Telling those who count what a precompiler does. The journal is for people and tests; this is for the process itself.

use prewasi_cache::MissReason;

/// Something worth counting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activity {
    /// An artifact was there.
    Hit,
    /// There was none that can be used.
    Miss(Miss),
    /// A compile has ended well.
    Compiled {
        /// Wall clock.
        seconds: f64,
        /// Length of the artifact.
        bytes: u64,
    },
    /// A compile has failed.
    CompileFailed,
    /// The store failed, and the work went on without it.
    CacheFailed,
}

/// Why there was no artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// Nothing has been compiled yet.
    Absent,
    /// What the label names is not there.
    Dangling,
    /// What the label names is not ours.
    Foreign,
    /// Its bytes are not those of its digest.
    Corrupt,
    /// The store could not be asked.
    Unavailable,
}

impl Miss {
    /// Returns the word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Dangling => "dangling",
            Self::Foreign => "foreign",
            Self::Corrupt => "corrupt",
            Self::Unavailable => "unavailable",
        }
    }
}

impl From<&MissReason> for Miss {
    fn from(reason: &MissReason) -> Self {
        match reason {
            MissReason::Absent => Self::Absent,
            MissReason::Dangling => Self::Dangling,
            MissReason::Foreign => Self::Foreign,
            MissReason::Corrupt(_) => Self::Corrupt,
        }
    }
}

/// Hears of everything as it happens; must not wait for anything.
pub trait Observer: Send + Sync {
    /// `engine` is the name of the engine that the work is done for.
    fn observe(&self, engine: &'static str, activity: Activity);
}

/// Hears nothing.
pub(crate) struct Nobody;

impl Observer for Nobody {
    fn observe(&self, _: &'static str, _: Activity) {}
}
