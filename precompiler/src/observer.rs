//! Reports a precompiler's activities to an observer that counts them. The journal is for people and tests; this is for the process
//! itself.

use prewasi_cache::MissReason;

/// An activity to count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activity {
    /// A look-up found the artifact.
    Hit,
    /// A look-up found no usable artifact.
    Miss(Miss),
    /// A compile has succeeded.
    Compiled {
        /// Duration in seconds, wall clock.
        seconds: f64,
        /// Length of the artifact in bytes.
        bytes: u64,
    },
    /// A compile has failed.
    CompileFailed,
    /// The store failed, and the work continued without it.
    CacheFailed,
}

/// The reason of a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// No artifact is stored yet.
    Absent,
    /// The blob that the label names does not exist.
    Dangling,
    /// The blob that the label names does not confirm the label.
    Foreign,
    /// Its bytes do not match its digest.
    Corrupt,
    /// The store could not be read.
    Unavailable,
}

impl Miss {
    /// Returns the reason as a word, for labels of metrics.
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

/// Receives every activity when it happens; must not block.
pub trait Observer: Send + Sync {
    /// `engine` is the name of the engine that the work is done for.
    fn observe(&self, engine: &'static str, activity: Activity);
}

/// An observer that ignores all activities.
pub(crate) struct Nobody;

impl Observer for Nobody {
    fn observe(&self, _: &'static str, _: Activity) {}
}
