//! Validations of small requests that wait for a worker at the same time, put into one job.
//!
//! A job costs two switches between processes and two between threads, and a small document less than that. So a request
//! that comes while an equal job still waits (the same design documents, the same user, the same `_security`) joins it. An
//! idle server thus answers at once, and a busy one works in batches.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::call::{Call, Outcome};
use super::design::Design;
use super::failure::rejected;
use super::pending::Pending;
use super::run::Seat;
use super::threads::Threads;
use super::turns::Size;
use crate::error::{Error, Result};

/// Bytes of documents that are made ready for validation at once.
const VALIDATED: usize = 1 << 20;
/// Documents of one validation that may overrun before the rest is refused without being asked.
pub(super) const OVERRUNS: usize = 3;
/// Documents of one job at most, unless one request has more.
const MOST: usize = 64;

/// A new document and what it replaces, as JSON.
type Edit = (String, Option<String>);
/// One verdict per document.
type Verdicts = Vec<Result<()>>;

/// What jobs must agree in to become one: the list of design documents (which the job keeps alive), user, `_security`.
type Name = (usize, String, String);

/// A request that waits.
struct Asked {
    documents: Arc<Vec<Edit>>,
    range: Range<usize>,
    reply: oneshot::Sender<Result<Verdicts>>,
}

/// The requests that wait.
#[derive(Default)]
pub(super) struct Gathered {
    waiting: Mutex<HashMap<Name, Vec<Asked>>>,
}

impl Gathered {
    fn take(&self, name: &Name) -> Vec<Asked> {
        self.waiting.lock().remove(name).unwrap_or_default()
    }

    /// Has documents validated, with others that wait for the same.
    pub fn ask(
        self: &Arc<Self>,
        threads: &Threads,
        designs: &Arc<Vec<Arc<Design>>>,
        documents: &Arc<Vec<Edit>>,
        range: Range<usize>,
        [user, security]: [&str; 2],
        size: Size,
    ) -> Pending<Verdicts> {
        let (reply, pending) = Pending::new();
        let name: Name = (Arc::as_ptr(designs).addr(), user.to_owned(), security.to_owned());
        let asked = Asked { documents: documents.clone(), range, reply };
        // What needs a larger worker goes by itself.
        let alone = size.room > 0;
        if !alone {
            let mut waiting = self.waiting.lock();
            if let Some(others) = waiting.get_mut(&name) {
                let count: usize = others.iter().map(|other| other.range.len()).sum();
                if count + asked.range.len() <= MOST {
                    others.push(asked);
                    return pending;
                }
                // A full job keeps its requests by another name, which nobody can join.
                drop(waiting);
                self.submit(threads, designs, vec![asked], name, size);
                return pending;
            }
            waiting.insert(name.clone(), Vec::new());
        }
        self.submit(threads, designs, vec![asked], name, size);
        pending
    }

    /// Queues a job for `first` and all that join it.
    fn submit(
        self: &Arc<Self>,
        threads: &Threads,
        designs: &Arc<Vec<Arc<Design>>>,
        first: Vec<Asked>,
        name: Name,
        size: Size,
    ) {
        let shared = Arc::new(Mutex::new(first));
        let (all, gathered, designs) = (shared.clone(), self.clone(), designs.clone());
        let (excused, of, named) = (shared, self.clone(), name.clone());
        let alone = size.room > 0;
        let whole = move |gathered: &Gathered, first: &Mutex<Vec<Asked>>, name: &Name| {
            let mut all = std::mem::take(&mut *first.lock());
            if !alone {
                all.extend(gathered.take(name));
            }
            all
        };
        threads.submit_for_several(
            size,
            move |seat| answer(seat, &designs, whole(&gathered, &all, &name), &name),
            move |error| {
                for asked in whole(&of, &excused, &named) {
                    let _ = asked.reply.send(Err(error.clone()));
                }
            },
        );
    }
}

/// Asks about all documents of all requests that are still waited for.
fn answer(seat: &mut Seat, designs: &[Arc<Design>], mut all: Vec<Asked>, (_, user, security): &Name) {
    all.retain(|asked| !asked.reply.is_closed());
    let edits: Vec<&Edit> =
        all.iter().flat_map(|asked| asked.documents.get(asked.range.clone()).unwrap_or_default()).collect();
    // What one request is refused for must not be another's.
    let most_overruns = if all.len() > 1 { usize::MAX } else { OVERRUNS };
    let mut verdicts: Verdicts = Vec::with_capacity(edits.len());
    while verdicts.len() < edits.len() {
        let left = &edits[verdicts.len()..];
        let mut bytes = 0;
        let fits = |(new, old): &&&Edit| {
            bytes += new.len() + old.as_deref().map_or(0, str::len) + user.len() + security.len();
            bytes <= VALIDATED
        };
        let count = left.iter().take_while(fits).count().max(1);
        verdicts.extend(validated(seat, designs, &left[..count], [user, security], most_overruns));
    }
    let mut verdicts = verdicts.into_iter();
    for asked in all {
        let count = asked.documents.get(asked.range).map_or(0, <[Edit]>::len);
        let own: Verdicts = verdicts.by_ref().take(count).collect();
        let whole = if own.len() == count { Ok(own) } else { Err(Error::Internal("verdicts are missing".into())) };
        let _ = asked.reply.send(whole);
    }
}

/// One verdict per document: of the first design document that refuses it.
fn validated(
    seat: &mut Seat,
    designs: &[Arc<Design>],
    documents: &[&Edit],
    [user, security]: [&str; 2],
    most_overruns: usize,
) -> Vec<Result<()>> {
    let mut verdicts: Vec<Result<()>> = vec![Ok(()); documents.len()];
    for design in designs {
        let asked: Vec<usize> = (0..documents.len()).filter(|at| verdicts[*at].is_ok()).collect();
        let args = |at: &usize| {
            let (new, old) = documents[*at];
            format!("[{new},{},{user},{security}]", old.as_deref().unwrap_or("null"))
        };
        let items: Vec<String> = asked.iter().map(args).collect();
        let fill = Some(("addDesign", design.source.as_str()));
        let outcomes = design
            .key(user)
            .and_then(|key| seat.call(Call { fill, most_overruns, ..Call::new(&key, "validate", &items) }));
        let mut answers: Vec<Result<()>> = match outcomes {
            Ok(outcomes) => outcomes.into_iter().map(verdict).collect(),
            Err(error) => vec![Err(error); asked.len()],
        };
        answers.resize_with(asked.len(), || Err(Error::Internal("a script worker did not answer".into())));
        asked.into_iter().zip(answers).for_each(|(at, answer)| verdicts[at] = answer);
    }
    verdicts
}

fn verdict(outcome: Outcome) -> Result<()> {
    match outcome.result()?.as_str() {
        "1" => Ok(()),
        answer => Err(rejected(answer)),
    }
}
