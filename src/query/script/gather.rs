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

use super::run::Seat;
use super::turns::Size;
use super::{Design, OVERRUNS, Pending, Scripts, VALIDATED, validated};
use crate::error::{Error, Result};

/// Documents of one job at most, unless one request has more.
const MOST: usize = 64;

/// A new document and what it replaces, as JSON.
pub(super) type Edit = (String, Option<String>);
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
}

impl Scripts {
    /// Has documents validated, with others that wait for the same.
    pub(super) fn gather(
        &self,
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
            let mut waiting = self.threads.gathered.waiting.lock();
            if let Some(others) = waiting.get_mut(&name) {
                let count: usize = others.iter().map(|other| other.range.len()).sum();
                if count + asked.range.len() <= MOST {
                    others.push(asked);
                    return pending;
                }
                // A full job keeps its requests by another name, which nobody can join.
                drop(waiting);
                self.ask(designs, vec![asked], name, size);
                return pending;
            }
            waiting.insert(name.clone(), Vec::new());
        }
        self.ask(designs, vec![asked], name, size);
        pending
    }

    /// Queues a job for `first` and all that join it.
    fn ask(&self, designs: &Arc<Vec<Arc<Design>>>, first: Vec<Asked>, name: Name, size: Size) {
        let shared = Arc::new(Mutex::new(first));
        let (all, gathered, designs) = (shared.clone(), self.threads.gathered.clone(), designs.clone());
        let (excused, of, named) = (shared, self.threads.gathered.clone(), name.clone());
        let alone = size.room > 0;
        let whole = move |gathered: &Gathered, first: &Mutex<Vec<Asked>>, name: &Name| {
            let mut all = std::mem::take(&mut *first.lock());
            if !alone {
                all.extend(gathered.take(name));
            }
            all
        };
        self.threads.submit_for_several(
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
