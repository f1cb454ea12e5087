//! Runs a module by WAMR, in the container's process.

use std::ffi::CString;
use std::fs::File;
use std::sync::Arc;

use super::module::Module;
use super::runtime::{Ended, Settings, run};
use crate::preopens;
use crate::{Guest, Outcome, Program, RunError, WasmKind, entry_point};

/// Stack of a guest, bytes: its frames lie in memory of the interpreter's.
pub(super) const STACK: u32 = 8 << 20;
/// The least and the most that it may have.
pub(super) const STACK_LIMITS: (u64, u64) = (64 << 10, 1 << 30);
/// A page of linear memory, bytes.
const PAGE: u64 = 64 << 10;
/// What WAMR puts between the guest's and the host's name of a folder.
const BETWEEN: &str = "::";

/// A module that has been validated, and is loaded where it runs.
pub(super) struct Interpreted {
    pub(super) wasm: Arc<[u8]>,
    pub(super) module: Module,
    pub(super) stack: u32,
}

impl Interpreted {
    fn settings(&self, guest: &Guest) -> Result<Settings, RunError> {
        if guest.fuel.is_some() {
            return Err(setup("wamr cannot limit how much a guest executes".to_owned()));
        }
        // WAMR gives a memory what it begins with, whatever the limit.
        let least = self.module.pages.saturating_mul(PAGE);
        if guest.memory_limit.is_some_and(|limit| limit < least) {
            return Err(setup(format!("a memory of {least} bytes exceeds memory limits")));
        }
        let mut folders = Vec::new();
        for folder in preopens::resolve(&guest.preopens, &guest.cwd) {
            let host = folder.host.display().to_string();
            if folder.read_only {
                return Err(setup(format!(
                    "folder {host} as {:?}: wamr cannot keep a folder from being changed",
                    folder.guest
                )));
            }
            match File::open(&folder.host) {
                Err(error) if folder.required => {
                    return Err(setup(format!("folder {host} as {:?}: {error}", folder.guest)));
                }
                Err(_) => continue,
                Ok(_) => {}
            }
            if host.contains(BETWEEN) || folder.guest.contains(BETWEEN) {
                return Err(setup(format!("folder {host} as {:?}: wamr takes no name with {BETWEEN:?}", folder.guest)));
            }
            folders.push(text(format!("{}{BETWEEN}{host}", folder.guest))?);
        }
        let texts = |list: Vec<String>| list.into_iter().map(text).collect::<Result<Vec<_>, _>>();
        let variable = |(name, value): &(String, String)| format!("{name}={value}");
        Ok(Settings {
            args: texts(guest.args.clone())?,
            env: texts(guest.env.iter().map(variable).collect())?,
            folders,
            stack: self.stack,
            pages: guest.memory_limit.map(|limit| u32::try_from(limit / PAGE).unwrap_or(u32::MAX)),
        })
    }
}

impl Program for Interpreted {
    fn check(&self, guest: &Guest) -> Result<(), RunError> {
        let name = guest.function.as_deref().unwrap_or(entry_point(WasmKind::Module));
        let reason = match self.module.exports.get(name) {
            Some(Some((0, _))) => return Ok(()),
            Some(Some(_)) => "it wants parameters",
            Some(None) => "it is no function",
            None => "there is none of that name",
        };
        Err(RunError::NoSuchFunction { function: name.to_owned(), reason: reason.to_owned() })
    }

    fn run(&self, guest: &Guest) -> Result<Outcome, RunError> {
        self.check(guest)?;
        let settings = self.settings(guest)?;
        let entry = guest.function.as_deref().unwrap_or(entry_point(WasmKind::Module));
        // A command sets itself up in its entry point; only a library has a function for it.
        let initialize =
            (guest.function.is_some() && self.module.exports.contains_key("_initialize")).then_some("_initialize");
        let calls: Vec<(&str, usize)> = initialize
            .into_iter()
            .chain([entry])
            .map(|name| (name, self.module.exports.get(name).copied().flatten().map_or(0, |(_, results)| results)))
            .collect();
        match run(self.wasm.to_vec(), &settings, &calls) {
            Ended::Returned => Ok(Outcome::Exit(0)),
            // The system keeps eight bits of an exit code.
            Ended::Exited(code) => Ok(Outcome::Exit(code.to_le_bytes()[0])),
            Ended::Trapped(message) => Err(RunError::Trap { message }),
            Ended::NotStarted(reason) => Err(setup(reason)),
        }
    }
}

fn text(text: String) -> Result<CString, RunError> {
    CString::new(text).map_err(|error| setup(format!("a text with a NUL: {error}")))
}

fn setup(reason: String) -> RunError {
    RunError::Setup { reason }
}
