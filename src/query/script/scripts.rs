//! The handle that calls scripts: `Scripts`, and what its methods in other files share.

use std::sync::Arc;

use super::call::{Call, Outcome};
use super::counters::Stats;
use super::design::Design;
use super::gather::Gathered;
use super::limits::{Limits, room};
use super::run::Seat;
use super::threads::Threads;
use super::turns::Size;
use crate::error::{Error, Result};

/// Runs scripts. Clones share the workers; dropping the last clone ends them.
#[derive(Clone)]
pub struct Scripts {
    pub(super) threads: Arc<Threads>,
    /// Waiting validations, which share jobs.
    pub(super) gathered: Arc<Gathered>,
}

impl Scripts {
    pub fn new(limits: Limits) -> Scripts {
        Scripts { threads: Arc::new(Threads::new(limits)), gathered: Arc::default() }
    }

    pub fn limits(&self) -> Limits {
        self.threads.limits()
    }

    /// Sets the limits of scripts that start from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.threads.set_limits(limits);
    }

    /// Counters and gauges since the start of the server.
    pub fn stats(&self) -> Stats {
        self.threads.stats()
    }

    /// Counts a document that a view skips because it emits too much.
    pub fn count_skipped(&self) {
        self.threads.counters().skipped();
    }
}

/// Returns the size of a job with inputs of these lengths.
pub(super) fn size(owner: u64, lengths: impl IntoIterator<Item = usize>) -> Size {
    let (bytes, longest) =
        lengths.into_iter().fold((0, 0), |(sum, longest): (usize, usize), length| (sum + length, longest.max(length)));
    Size { owner, bytes, room: room(longest), list: false }
}

/// Returns the answer of a call with one item.
pub(super) fn one(outcomes: Vec<Outcome>) -> Result<String> {
    let outcome = outcomes.into_iter().next();
    outcome.ok_or_else(|| Error::Internal("a script worker did not answer".into()))?.result()
}

/// Calls a design document's function once, in the environment of this document and user.
pub(super) fn design_call(
    seat: &mut Seat,
    design: &Design,
    user: &str,
    entry: &'static str,
    args: String,
    name: &str,
) -> Result<String> {
    let key = design.key(user)?;
    let items = [args];
    let fill = Some(("addDesign", design.source.as_str()));
    one(seat.call(Call { fill, text: name, ..Call::new(&key, entry, &items) })?)
}
