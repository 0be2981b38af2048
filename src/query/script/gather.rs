//! Combines validations of small requests that wait for a worker at the same time into one job.
//!
//! A job costs two process switches and two thread switches, which is more than a small document costs. A
//! request that arrives while an equal job is still waiting (same design documents, same user, same
//! `_security`) therefore joins that job. An idle server answers at once, and a busy one works in batches.

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

/// Maximum size in bytes of the documents that are prepared for validation at once.
const VALIDATED: usize = 1 << 20;
/// After this many documents of one validation have exceeded their time, the rest is rejected untried.
pub(super) const OVERRUNS: usize = 3;
/// Maximum number of documents per job, unless a single request has more.
const MOST: usize = 64;

/// A new document and the document that it replaces, as JSON.
type Edit = (String, Option<String>);
/// One verdict per document.
type Verdicts = Vec<Result<()>>;

/// Requests with equal names can share a job: address of the list of design documents (which the job keeps
/// alive), user, `_security`.
type Name = (usize, String, String);

/// A waiting request.
struct Asked {
    documents: Arc<Vec<Edit>>,
    range: Range<usize>,
    reply: oneshot::Sender<Result<Verdicts>>,
}

/// The waiting requests of each job that others may join.
#[derive(Default)]
pub(super) struct Gathered {
    waiting: Mutex<HashMap<Name, Vec<Asked>>>,
}

impl Gathered {
    fn take(&self, name: &Name) -> Vec<Asked> {
        self.waiting.lock().remove(name).unwrap_or_default()
    }

    /// Queues a validation, or adds it to a waiting job of the same name.
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
        // A request that needs a larger worker gets a job of its own.
        let alone = size.room > 0;
        if !alone {
            let mut waiting = self.waiting.lock();
            if let Some(others) = waiting.get_mut(&name) {
                let count: usize = others.iter().map(|other| other.range.len()).sum();
                if count + asked.range.len() <= MOST {
                    others.push(asked);
                    return pending;
                }
                // The waiting job is full. This request gets a job that no others join.
                drop(waiting);
                self.submit(threads, designs, vec![asked], name, size);
                return pending;
            }
            waiting.insert(name.clone(), Vec::new());
        }
        self.submit(threads, designs, vec![asked], name, size);
        pending
    }

    /// Queues a job for `first` and the requests that join it.
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

/// Validates the documents of all requests whose callers still wait.
fn answer(seat: &mut Seat, designs: &[Arc<Design>], mut all: Vec<Asked>, (_, user, security): &Name) {
    all.retain(|asked| !asked.reply.is_closed());
    let edits: Vec<&Edit> =
        all.iter().flat_map(|asked| asked.documents.get(asked.range.clone()).unwrap_or_default()).collect();
    // Overruns of one request must not cause the rejection of another.
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

/// Returns one verdict per document: that of the first design document that rejects it.
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
