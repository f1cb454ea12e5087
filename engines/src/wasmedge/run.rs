//! Runs a loaded program to its end, on a thread with a stack of its own.

use super::facts::Facts;
use super::instance::Settings;
use super::library::{Configuration, Module};
use super::options::CodeOptions;
use super::{instance, rewrite, stack};
use crate::end::{End, setup};
use crate::wasi::Wasi;
use crate::{Guest, NativeCode, Network, Program, RunError, exports};

/// A module that is mapped.
pub(super) struct Loaded {
    pub(super) module: Module,
    pub(super) facts: Facts,
    pub(super) options: CodeOptions,
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
        Ok(Settings { configuration, fuel: guest.fuel })
    }

    /// Lists the functions to be called, one after the other.
    fn calls<'a>(&self, guest: &'a Guest) -> Vec<&'a str> {
        let before = [Some(rewrite::START), exports::initializer(guest)].into_iter().flatten();
        let callable =
            |name: &&str| matches!(self.facts.export(name), Some(exports::Export::Function { parameters: 0 }));
        before.filter(callable).chain([exports::entry(guest, |name| self.facts.export(name))]).collect()
    }
}

impl Program for Loaded {
    fn check(&self, guest: &Guest) -> Result<(), RunError> {
        exports::check(guest, |name| self.facts.export(name))
    }

    fn run(&self, guest: &Guest) -> Result<u8, RunError> {
        self.check(guest)?;
        let (settings, wasi, calls) = (self.settings(guest)?, Wasi::new(guest)?, self.calls(guest));
        let run = || instance::run(&self.module, &settings, wasi, &calls);
        let (end, used_up) = stack::run(self.options.stack(), run)
            .map_err(|error| setup(format!("cannot start a thread for the guest: {error}")))?;
        let end = match end {
            End::Trapped(_) if used_up => End::Trapped("wasm trap: call stack exhausted".to_owned()),
            End::Trapped(reason) => End::Trapped(format!("wasm trap: {reason}")),
            end => end,
        };
        end.exit_code()
    }
}
