//! Errors of look-ups.

use std::io;
use std::path::PathBuf;

/// The reason why a look-up failed.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The text cannot be a host's name.
    #[error("cannot look up {name:?}: it is no host name")]
    Invalid {
        /// The requested name.
        name: String,
    },
    /// The hosts file does not have the name, and a server reports that it does not exist or has no address.
    #[error("cannot look up {name:?}: there is no such host")]
    Unknown {
        /// The requested name.
        name: String,
    },
    /// No server answered, or each server that did reported a failure. A later look-up may succeed.
    #[error("cannot look up {name:?}: no name server has answered")]
    Unanswered {
        /// The requested name.
        name: String,
    },
    /// The servers refuse such queries.
    #[error("cannot look up {name:?}: the name servers refuse to answer")]
    Refused {
        /// The requested name.
        name: String,
    },
    /// An existing file cannot be used.
    #[error("cannot read {}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}
