//! Runs a loaded program to its end, on a thread with a stack of its own.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;

use super::facts::Facts;
use super::instance::{Ended, Settings};
use super::library::{Configuration, Module};
use super::options::Options;
use super::{instance, rewrite, stack};
use crate::preopens::{self, Folder};
use crate::texts::{Texts, refused, setup};
use crate::{Guest, NativeCode, Network, Program, RunError, exports};

/// A module that is mapped.
pub(super) struct Loaded {
    pub(super) module: Module,
    pub(super) facts: Facts,
    pub(super) options: Options,
    /// As long as its file is open, no other file has its number, by which the dynamic loader knows it.
    pub(super) _code: NativeCode,
}

impl Loaded {
    fn settings(&self, guest: &Guest) -> Result<Settings, RunError> {
        if guest.fuel.is_some() && !self.options.fuel() {
            return Err(setup("this code does not count fuel; compile it with fuel=yes".to_owned()));
        }
        match guest.network {
            // WASI preview 1 has no function that makes a socket, and no descriptor that a guest is given is one.
            Network::Inherit | Network::None => {}
        }
        let mut configuration = Configuration::new(&self.options).map_err(setup)?;
        if let Some(limit) = guest.memory_limit {
            configuration.limit(self.facts.pages(limit).map_err(setup)?);
        }
        Ok(Settings {
            configuration,
            texts: Texts::of(guest, preopens::resolve(&guest.preopens, &guest.cwd), mapping)?,
            fuel: guest.fuel,
        })
    }

    /// Lists the functions to be called, one after the other.
    fn calls<'a>(&self, guest: &'a Guest) -> Vec<&'a str> {
        let before = [Some(rewrite::START), exports::initializer(guest)].into_iter().flatten();
        let callable =
            |name: &&str| matches!(self.facts.export(name), Some(exports::Export::Function { parameters: 0 }));
        before.filter(callable).chain([exports::entry(guest)]).collect()
    }
}

impl Program for Loaded {
    fn check(&self, guest: &Guest) -> Result<(), RunError> {
        exports::check(guest, |name| self.facts.export(name))
    }

    fn run(&self, guest: &Guest) -> Result<u8, RunError> {
        self.check(guest)?;
        let (settings, calls) = (self.settings(guest)?, self.calls(guest));
        let run = || instance::run(&self.module, &settings, &calls);
        let (ended, used_up) =
            stack::run(self.options.stack(), run).map_err(|error| setup(format!("a thread for the guest: {error}")))?;
        match ended {
            Ended::Returned => Ok(0),
            // The system keeps eight bits of an exit code.
            Ended::Exited(code) => Ok(code.to_le_bytes()[0]),
            Ended::Trapped(_) if used_up => Err(trap("call stack exhausted")),
            Ended::Trapped(reason) => Err(trap(&reason)),
            Ended::NotStarted(reason) => Err(setup(reason)),
        }
    }
}

fn trap(reason: &str) -> RunError {
    RunError::Trap { message: format!("wasm trap: {reason}") }
}

/// Writes down a folder as WasmEdge reads it.
fn mapping(folder: &Folder) -> Result<CString, RunError> {
    const BETWEEN: u8 = b':';
    let (guest, host) = (folder.guest.as_bytes(), folder.host.as_os_str().as_bytes());
    if guest.contains(&BETWEEN) || host.contains(&BETWEEN) {
        return Err(refused(folder, "wasmedge takes no name with a colon in it"));
    }
    CString::new([guest, &[BETWEEN], host].concat()).map_err(|_| refused(folder, "its name has a NUL"))
}
