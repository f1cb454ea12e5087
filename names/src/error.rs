//! Why a name has no addresses.

use std::io;
use std::path::PathBuf;

/// Says why a look-up has failed.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// It can be the name of no host.
    #[error("cannot look up {name:?}: it is no host name")]
    Invalid {
        /// What was asked for.
        name: String,
    },
    /// It is not in the file of hosts, and a server says that it does not exist or has no address.
    #[error("cannot look up {name:?}: there is no such host")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// No server has answered, or each that did has failed. It may succeed later.
    #[error("cannot look up {name:?}: no name server has answered")]
    Unanswered {
        /// What was asked for.
        name: String,
    },
    /// The servers do not answer such questions.
    #[error("cannot look up {name:?}: the name servers refuse to answer")]
    Refused {
        /// What was asked for.
        name: String,
    },
    /// A file that is there cannot be used.
    #[error("cannot read {}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}
