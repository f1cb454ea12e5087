//! Errors in options: the place, the option, and the expected value.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// The place in which an option is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file.
    File(PathBuf),
    /// The options of the runtime, which containerd passes on.
    Runtime,
    /// An annotation of the container, by its name.
    Annotation(String),
    /// An annotation of an image.
    Image {
        /// Name of the image.
        image: String,
        /// Name of the annotation.
        annotation: String,
    },
    /// A variable of the container's environment.
    Variable(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Runtime => f.write_str("the options of the runtime"),
            Self::Annotation(name) => write!(f, "annotation {name}"),
            Self::Image { image, annotation } => write!(f, "annotation {annotation} of image {image}"),
            Self::Variable(name) => write!(f, "variable {name}"),
        }
    }
}

/// The reason why options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A document is not valid TOML.
    #[error("cannot parse {place}, line {line}: {reason}")]
    Syntax {
        /// The document.
        place: Place,
        /// The line, counted from 1.
        line: usize,
        /// The parser's message.
        reason: String,
    },
    /// There is no such option.
    #[error("cannot use {place}: no option is called {key:?}; {}", or_the_list(nearest.as_ref().map(|name| format!("{name:?}"))))]
    Unknown {
        /// The place of the option.
        place: Place,
        /// The option, as it is written there.
        key: String,
        /// The known option with the most similar name.
        nearest: Option<String>,
    },
    /// An option cannot have this value.
    #[error("cannot use {place}: {key} cannot be {value}: {reason}")]
    Value {
        /// The place of the option.
        place: Place,
        /// The option.
        key: &'static str,
        /// The value, as it is written there.
        value: String,
        /// The expected form.
        reason: String,
    },
    /// There is no such annotation.
    #[error("cannot use {place}: it is not known; {}", or_the_list(nearest.clone()))]
    UnknownAnnotation {
        /// The annotation, of a container or an image.
        place: Place,
        /// The known annotation with the most similar name.
        nearest: Option<String>,
    },
    /// The node's configuration does not allow the annotation.
    #[error("cannot use annotation {annotation}: this node or runtime allows annotations for [{allowed}] only")]
    NotAllowed {
        /// Name of the annotation.
        annotation: String,
        /// The allowed annotations.
        allowed: String,
    },
}

impl OptionsError {
    pub(super) fn syntax(place: &Place, text: &str, error: &toml::de::Error) -> Self {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
        Self::Syntax { place: place.clone(), line, reason: error.message().to_owned() }
    }
}

/// Names the option that was probably meant, else where all of them are listed.
fn or_the_list(nearest: Option<String>) -> String {
    nearest.map_or_else(
        || "docs/configuration.md lists all of them".to_owned(),
        |nearest| format!("the nearest one is {nearest}"),
    )
}
