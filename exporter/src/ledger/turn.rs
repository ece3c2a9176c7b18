//! What one update of the ledger works with.

use crate::labels::{Labels, Tick};
use crate::ledger::capacity::Capacity;

/// One update: its time, its habits, and what it takes labels and series from.
pub(crate) struct Turn<'a> {
    pub(crate) tick: Tick,
    /// Ticks that traffic without an owner is held back.
    pub(crate) hold: Tick,
    /// Readings have jitter.
    pub(crate) jitter: bool,
    /// Blank `transport_id` and `id` in the contract's families.
    pub(crate) quiet: bool,
    pub(crate) labels: &'a mut Labels,
    pub(crate) capacity: &'a mut Capacity,
}
