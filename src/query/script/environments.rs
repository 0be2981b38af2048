//! The environments of a worker process, as the server keeps track of them.

use std::sync::Arc;
use std::time::Instant;

/// The purpose of an environment; calls with equal keys share an environment of a worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Key {
    /// The map functions of a view signature.
    Map { signature: String },
    /// A list of reduce functions.
    Reduce { functions: Arc<Vec<String>> },
    /// A design document's functions, called by one user (its `userCtx`).
    Design { id: String, rev: String, user: String },
    /// Not shared: each call gets its own environment.
    Once,
}

impl Key {
    /// Whether `other` belongs to another revision of the same design document.
    pub fn replaces(&self, other: &Key) -> bool {
        match (self, other) {
            (Key::Design { id, rev, .. }, Key::Design { id: other, rev: old, .. }) => id == other && rev != old,
            _ => false,
        }
    }
}

/// The environments of one worker, the least recently used first: key, number, time of last use.
#[derive(Default)]
pub(super) struct Environments {
    pub list: Vec<(Key, u64, Instant)>,
    pub next: u64,
}
