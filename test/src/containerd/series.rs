//! The releases of containerd that tests run on: two that `test/setup` fetches, and those that somebody has and names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::home;

/// Names further releases: `SERIES=PREFIX`, separated by commas, such as `2.4=/opt/containerd-2.4`.
const VARIABLE: &str = "PREWASI_CONTAINERDS";

/// A release of containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Series {
    /// Task API version 2, config version 2.
    V1_7,
    /// Task API version 3, config version 3.
    V2_1,
    /// One that is named by `PREWASI_CONTAINERDS`.
    Further(&'static Further),
}

/// A release that lies where somebody says.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Further {
    /// Its number, such as `2.4`.
    number: String,
    /// The folder with `bin`, which has containerd, `ctr` and runc's shim.
    prefix: PathBuf,
}

impl Series {
    /// Those that everything is tested on, oldest first.
    pub const USUAL: [Self; 2] = [Self::V1_7, Self::V2_1];

    /// Returns all: the usual ones, then those that `PREWASI_CONTAINERDS` names.
    ///
    /// # Panics
    /// If the variable cannot be used.
    pub fn all() -> Vec<Self> {
        static FURTHER: LazyLock<Vec<Further>> = LazyLock::new(|| match std::env::var(VARIABLE) {
            Ok(text) => parse(&text).unwrap_or_else(|reason| panic!("cannot use {VARIABLE}={text:?}: {reason}")),
            Err(_) => Vec::new(),
        });
        Self::USUAL.into_iter().chain(FURTHER.iter().map(Self::Further)).collect()
    }

    /// Returns the folder with its programs.
    pub fn programs(self) -> PathBuf {
        match self {
            Self::V1_7 | Self::V2_1 => home::part(self.to_string()).join("bin"),
            Self::Further(further) => further.prefix.join("bin"),
        }
    }

    /// Says whether this is a 1.x, whose task API, configuration and plugins are older.
    pub fn is_old(self) -> bool {
        self == Self::V1_7
    }

    /// Returns whether this is the release `major.minor` or a newer one.
    pub fn is_at_least(self, major: u32, minor: u32) -> bool {
        let release = match self {
            Self::V1_7 => (1, 7),
            Self::V2_1 => (2, 1),
            Self::Further(further) => {
                let (major, minor) = further.number.split_once('.').expect("the number was checked");
                (major.parse().expect("the number was checked"), minor.parse().expect("the number was checked"))
            }
        };
        release >= (major, minor)
    }

    /// Returns its place among [`Self::all`].
    pub(crate) fn place(self) -> usize {
        Self::all().iter().position(|known| *known == self).unwrap_or(0)
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V1_7 => f.write_str("containerd-1.7"),
            Self::V2_1 => f.write_str("containerd-2.1"),
            Self::Further(further) => write!(f, "containerd-{}", further.number),
        }
    }
}

/// Reads the variable. A name that is taken, or a prefix without a containerd, is a mistake of its author.
fn parse(text: &str) -> Result<Vec<Further>, String> {
    let mut all: Vec<Further> = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (number, prefix) = entry.split_once('=').ok_or_else(|| format!("{entry:?} is not SERIES=PREFIX"))?;
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !number.split_once('.').is_some_and(|(major, minor)| is_number(major) && is_number(minor)) {
            return Err(format!("{number:?} is no series such as 2.4"));
        }
        if number.starts_with("0.") || number.starts_with("1.") {
            return Err(format!("{number} is older than 2.0"));
        }
        let is_usual = Series::USUAL.iter().any(|known| known.to_string().ends_with(&format!("-{number}")));
        if is_usual || all.iter().any(|known| known.number == number) {
            return Err(format!("{number} is there already"));
        }
        let further = Further { number: number.to_owned(), prefix: Path::new(prefix).to_owned() };
        let daemon = further.prefix.join("bin/containerd");
        if !daemon.is_file() {
            return Err(format!("there is no {}", daemon.display()));
        }
        all.push(further);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A number and a prefix name each further release. Malformed, taken and old numbers are refused, and so is a prefix without a daemon.
    #[test]
    fn further_releases_are_named() {
        let folder = tempfile::tempdir().expect("temp dir");
        fs::create_dir(folder.path().join("bin")).expect("the folder is ours");
        fs::write(folder.path().join("bin/containerd"), "").expect("the folder is ours");
        let prefix = folder.path().display();
        let named =
            |text: &str| parse(text).map(|all| all.into_iter().map(|further| further.number).collect::<Vec<_>>());
        assert_eq!(named("").unwrap(), [""; 0]);
        assert_eq!(named(&format!("2.4={prefix}, 2.3={prefix},")).unwrap(), ["2.4", "2.3"]);
        for odd in ["2.4", "2.4=/nowhere", "=/", "v2.4=/", "2=/"] {
            parse(odd).unwrap_err();
        }
        for taken in [format!("2.1={prefix}"), format!("1.6={prefix}"), format!("2.3={prefix},2.3={prefix}")] {
            parse(&taken).unwrap_err();
        }
    }
}
