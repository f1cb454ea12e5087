//! Runs a module by WAMR, in the container's process.

use std::sync::Arc;

use super::module::{Export, Module};
use super::runtime::{self, Settings, run};
use crate::end::setup;
use crate::wasi::Wasi;
use crate::{Guest, Network, Program, RunError, exports};

/// Stack of a guest, bytes. Frames of the interpreter lie in it, not data of C programs, which have theirs in the linear
/// memory. WAMR clears all of it at the start, so that it is memory from then on.
pub(super) const STACK: u32 = 1 << 20;
/// A page of linear memory, bytes.
const PAGE: u64 = 64 << 10;

/// A module that has been validated, and is given to WAMR where it runs.
pub(super) struct Interpreted {
    pub(super) module: Arc<Module>,
    pub(super) stack: u32,
}

impl Interpreted {
    fn settings(&self, guest: &Guest) -> Result<Settings, RunError> {
        if guest.fuel.is_some() {
            return Err(setup("wamr cannot limit how much a guest executes".to_owned()));
        }
        match guest.network {
            // WASI preview 1 has no function that makes a socket, and no descriptor that a guest is given is one.
            Network::Inherit | Network::None => {}
        }
        Ok(Settings { stack: self.stack, pages: guest.memory_limit.map_or(Ok(None), |limit| self.pages(limit))? })
    }

    /// Returns the maximum number of pages of the memory under a limit for memory and tables; `None` if the memory cannot grow.
    fn pages(&self, limit: u64) -> Result<Option<u32>, RunError> {
        let (initial, maximum) = self.module.pages.unwrap_or_default();
        let needs = self.module.tables.saturating_add(initial.saturating_mul(PAGE));
        if needs > limit {
            return Err(setup(format!(
                "its memory and tables begin with {needs} bytes, which exceeds memory limits ({limit})"
            )));
        }
        match (limit - self.module.tables) / PAGE {
            _ if maximum == initial => Ok(None),
            // To WAMR, this would be no limit.
            0 => Err(setup(format!("its memory can grow, and the limit of {limit} bytes leaves it no page"))),
            pages => Ok(Some(u32::try_from(pages).unwrap_or(u32::MAX))),
        }
    }

    fn export(&self, name: &str) -> Option<exports::Export> {
        Some(match self.module.exports.get(name)? {
            Export::Function { params, .. } => exports::Export::Function { parameters: *params },
            Export::Other => exports::Export::Other,
        })
    }

    fn calls(&self, guest: &Guest) -> Vec<runtime::Export<'_>> {
        let call = |name| match self.module.exports.get(name) {
            Some(Export::Function { name, params: 0, results }) => Some(runtime::Export { name, results: *results }),
            _ => None,
        };
        exports::initializer(guest)
            .into_iter()
            .chain([exports::entry(guest, |name| self.export(name))])
            .filter_map(call)
            .collect()
    }
}

impl Program for Interpreted {
    fn check(&self, guest: &Guest) -> Result<(), RunError> {
        exports::check(guest, |name| self.export(name))
    }

    /// Gives WAMR a copy of the bytes, because it writes to them; they are released as soon as it has translated them.
    fn run(&self, guest: &Guest) -> Result<u8, RunError> {
        self.check(guest)?;
        let settings = self.settings(guest)?;
        run(self.module.bytes.clone(), &settings, Wasi::new(guest)?, &self.calls(guest)).exit_code()
    }
}
