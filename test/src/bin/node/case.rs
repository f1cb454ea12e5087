//! The cases: scripts of `test/node/suite/cases`, and the settings in their first comments.
//!
//! ```text
//! # Devices that the list does not allow cannot be read.
//! # drivers: path systemd        cgroup drivers; the default is systemd
//! # kinds: native wasm           programs that run under our shim
//! # reference: none              its output is not compared with that of runc
//! # alone                        nothing else may run beside it
//! # short: path::native          part that the short form runs; the default is all
//! # long                         left out of the short form
//! # reboot                       it has a second part, after a reboot of the node
//! ```

use std::fs;
use std::path::Path;

use crate::error::NodeError;

/// A script.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Case {
    /// Name of its file without the extension.
    pub(crate) name: String,
    /// The cgroup drivers to test: `path`, `systemd`.
    pub(crate) drivers: Vec<String>,
    /// The kinds of program under the shim: `native`, `wasm`.
    pub(crate) kinds: Vec<String>,
    /// Its output must equal its output with runc.
    pub(crate) compared: bool,
    /// No other case may run at the same time.
    pub(crate) alone: bool,
    /// The combinations in the short form, each `driver::kind`; all if there are none.
    short: Vec<String>,
    /// It is left out of the short form.
    long: bool,
    /// It continues after a reboot.
    pub(crate) reboots: bool,
}

impl Case {
    /// Returns whether the short form includes this driver and this kind of process.
    pub(crate) fn is_in_short_form(&self, driver: &str, kind: &str) -> bool {
        !self.long && (self.short.is_empty() || self.short.contains(&format!("{driver}::{kind}")))
    }

    /// Reads all cases; those that run alone come last.
    pub(crate) fn all() -> Result<Vec<Self>, NodeError> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("node/suite/cases");
        let mut cases = Vec::new();
        for entry in fs::read_dir(&folder).map_err(NodeError::file(&folder))? {
            let path = entry.map_err(NodeError::file(&folder))?.path();
            let text = fs::read_to_string(&path).map_err(NodeError::file(&path))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            cases.push(Self::parse(&name, &text));
        }
        cases.sort_by(|a, b| (a.reboots, a.alone, &a.name).cmp(&(b.reboots, b.alone, &b.name)));
        Ok(cases)
    }

    /// Parses the comments at the beginning of a script.
    fn parse(name: &str, text: &str) -> Self {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let mut case = Self { name: name.to_owned(), compared: true, ..Self::default() };
        for line in text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim) {
            match line.split_once(": ").unwrap_or((line, "")) {
                ("drivers", drivers) => case.drivers = words(drivers),
                ("kinds", kinds) => case.kinds = words(kinds),
                ("short", short) => case.short = words(short),
                ("reference", "none") => case.compared = false,
                ("alone", "") => case.alone = true,
                ("long", "") => case.long = true,
                ("reboot", "") => (case.alone, case.reboots) = (true, true),
                _ => {}
            }
        }
        if case.drivers.is_empty() {
            case.drivers.push("systemd".to_owned());
        }
        if case.kinds.is_empty() {
            case.kinds.push("native".to_owned());
        }
        case
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only the comments before the first other line count.
    #[test]
    fn header_is_read() {
        let text = "# It works.\n# drivers: path systemd\n# kinds: native wasm\n# alone\necho\n# long\n";
        let case = Case::parse("works", text);
        assert_eq!(case.drivers, ["path", "systemd"]);
        assert_eq!(case.kinds, ["native", "wasm"]);
        assert!(case.compared && case.alone && !case.long && !case.reboots);
        let case = Case::parse("plain", "# It works.\n# reference: none\n# reboot\n");
        assert_eq!((&*case.drivers, &*case.kinds), (&["systemd".to_owned()][..], &["native".to_owned()][..]));
        assert!(!case.compared && case.alone && case.reboots);
    }

    /// The short form runs the listed combinations of a case, all of a case without a list, and none of a long one.
    #[test]
    fn short_form_is_what_cases_say() {
        let case = |text: &str| Case::parse("case", text);
        assert!(case("# It works.\n").is_in_short_form("path", "native"));
        assert!(!case("# long\n").is_in_short_form("path", "native"));
        let half = case("# short: path::native systemd::wasm\n");
        assert!(half.is_in_short_form("path", "native") && half.is_in_short_form("systemd", "wasm"));
        assert!(!half.is_in_short_form("path", "wasm"));
    }
}
