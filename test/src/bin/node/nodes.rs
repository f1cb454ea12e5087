//! The node that the trials share: booted for the first trial of a series, and ended when the next series begins.

use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use prewasi_test::Series;

use crate::by_hand;
use crate::error::NodeError;
use crate::machine::Machine;
use crate::parts;

/// The node of the current series.
#[derive(Default)]
pub(crate) struct Nodes {
    /// The current node. If its boot failed, it is not tried again.
    current: RwLock<Option<(Series, Result<Machine, String>)>>,
}

impl Nodes {
    /// Runs `action` on a node of the series, in parallel to others.
    pub(crate) fn share<R>(&self, series: Series, action: impl FnOnce(&Machine) -> R) -> Result<R, String> {
        loop {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, machine)) = current.as_ref().filter(|(of, _)| *of == series) {
                return machine.as_ref().map(action).map_err(Clone::clone);
            }
            drop(current);
            self.alone(series, |_| ())?;
        }
    }

    /// Runs `action` on a node of the series, while no other action runs.
    pub(crate) fn alone<R>(&self, series: Series, action: impl FnOnce(&mut Machine) -> R) -> Result<R, String> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|(of, _)| *of != series) {
            // The old node ends before the new one begins: memory is short.
            *current = None;
            *current = Some((series, boot(series).map_err(|error| error.chain())));
        }
        match current.as_mut() {
            Some((_, Ok(machine))) => Ok(action(machine)),
            Some((_, Err(reason))) => Err(reason.clone()),
            None => unreachable!("it has just been filled"),
        }
    }
}

/// Boots a node, or returns the one that was booted by hand and is to be kept.
fn boot(series: Series) -> Result<Machine, NodeError> {
    let start = Instant::now();
    let machine = if by_hand::is_wanted() { by_hand::machine()? } else { Machine::boot()? };
    let booted = start.elapsed();
    parts::install(&machine, series)?;
    let installed = start.elapsed() - booted;
    eprintln!("node: {series}: booted in {:.0} s, installed in {:.0} s", booted.as_secs_f64(), installed.as_secs_f64());
    Ok(machine)
}
