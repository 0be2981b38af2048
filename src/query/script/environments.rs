//! Which environments a worker process has, and what each was made for.

use std::sync::Arc;
use std::time::Instant;

/// What an environment was made for; equal keys may share one in the same worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Key {
    /// The map functions of a view signature.
    Map { signature: String },
    /// A list of reduce functions.
    Reduce { functions: Arc<Vec<String>> },
    /// A design document's functions, called by one user (its `userCtx`).
    Design { id: String, rev: String, user: String },
    /// Used once.
    Once,
}

impl Key {
    /// Whether `other` is what this was before the design document was changed.
    pub fn replaces(&self, other: &Key) -> bool {
        match (self, other) {
            (Key::Design { id, rev, .. }, Key::Design { id: other, rev: old, .. }) => id == other && rev != old,
            _ => false,
        }
    }
}

/// The environments of one worker, the least recently used first.
#[derive(Default)]
pub(super) struct Environments {
    pub list: Vec<(Key, u64, Instant)>,
    pub next: u64,
}
