//! What is known about the free space within the engine's files.

use std::time::Instant;

/// How many attempts to reclaim space follow the last write that freed something: engines free space with a
/// delay.
const LOOKS: u32 = 5;

/// What is known about the free space within the engine's files.
pub(super) struct Room {
    /// Bytes that the engine can still write into free space of its files, as of the last query.
    pub(super) spare: u64,
    /// How many more attempts to reclaim space may be worthwhile.
    pub(super) looks: u32,
    /// When the log last warned that the disk is full. `None` if writes have fit since.
    pub(super) warned: Option<Instant>,
    /// Something was freed since the engine was opened.
    pub(super) freed_since_open: bool,
    /// The earliest time for the next attempt.
    pub(super) again: Option<Instant>,
    /// Whether the reserve file exists.
    pub(super) reserved: bool,
}

impl Default for Room {
    fn default() -> Room {
        Room { spare: 0, looks: 1, warned: None, freed_since_open: false, again: None, reserved: false }
    }
}

impl Room {
    /// Accounts for a written group. `freed`: whether some of it has freed something.
    pub(super) fn written(&mut self, bytes: usize, freed: bool) {
        self.spare = self.spare.saturating_sub(2 * bytes as u64);
        if freed {
            (self.looks, self.freed_since_open) = (LOOKS, true);
        }
    }
}
