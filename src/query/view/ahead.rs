//! Maps batches of documents ahead of the writer of an index, with a bound on the memory of the emitted rows.
//!
//! A function may emit any number of rows for a document, and the number is unknown until it has run.
//! Therefore only a few batches are being mapped at a time, fewer if the last answers were large, and the
//! bytes of the answers that wait for the writer are counted. A batch that emits too much is mapped again
//! document by document (see `writer`).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::query::script::{BATCH_LIMIT, Mapped, Pending};

/// Maximum size in bytes of answers that wait for the writer.
const WAITING: usize = 16 << 20;
/// Maximum size in bytes of pending answers, estimated by the largest recent answer.
const COMING: usize = 32 << 20;
/// Interval of checks whether the writer has taken an answer.
const LOOK: Duration = Duration::from_millis(20);
/// Number of recent answers from which the size of the next one is estimated.
const REMEMBERED: usize = 16;
/// Maximum number of documents in a batch, and their approximate maximum size in bytes.
const MAPPED_AT_ONCE: usize = 100;
pub(super) const BATCH_BYTES: u64 = 1 << 20;

/// The rows of a batch: pending, available, or taken.
enum State {
    Coming(Pending<Mapped>),
    There(Result<Mapped>),
    Taken,
}

/// The answer for one batch, shared by the writer and the reader.
pub(super) struct Answer {
    documents: usize,
    state: Mutex<State>,
    /// Size of the answer in bytes; `UNKNOWN` while it is pending.
    bytes: AtomicUsize,
    flow: Arc<Flow>,
}

const UNKNOWN: usize = usize::MAX;

impl Answer {
    /// Takes the rows. Blocks until they are available.
    pub fn take(&self) -> Result<Mapped> {
        // Releases the lock before it waits: the reader looks at every answer meanwhile.
        let state = std::mem::replace(&mut *self.state.lock(), State::Taken);
        let answer = match state {
            State::Coming(pending) => self.arrived(pending.wait()),
            State::There(answer) => answer,
            State::Taken => Err(Error::Internal("the rows of a batch were taken twice".into())),
        };
        self.flow.taken.notify_all();
        answer
    }

    fn arrived(&self, answer: Result<Mapped>) -> Result<Mapped> {
        self.bytes.store(answer.as_ref().map_or(BATCH_LIMIT, Mapped::bytes), Ordering::Relaxed);
        answer
    }

    /// Checks whether the answer has arrived. If `wait` is true, blocks until it has.
    fn look(&self, wait: bool) {
        let mut state = self.state.lock();
        *state = match std::mem::replace(&mut *state, State::Taken) {
            State::Coming(mut pending) => match (poll_now(&mut pending), wait) {
                (Some(answer), _) => State::There(self.arrived(answer)),
                (None, true) => State::There(self.arrived(pending.wait())),
                (None, false) => State::Coming(pending),
            },
            other => other,
        };
    }

    /// Whether the answer is pending, and the writer does not wait for it yet.
    fn is_coming(&self) -> bool {
        matches!(&*self.state.lock(), State::Coming(_))
    }

    fn is_taken(&self) -> bool {
        matches!(&*self.state.lock(), State::Taken)
    }

    /// Size of the answer in bytes, or `None` while it is pending.
    fn bytes(&self) -> Option<usize> {
        Some(self.bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes != UNKNOWN)
    }
}

/// Returns the answer if it is available.
fn poll_now(pending: &mut Pending<Mapped>) -> Option<Result<Mapped>> {
    match Pin::new(pending).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// Wakes the reader when the writer has taken an answer.
#[derive(Default)]
struct Flow {
    lock: Mutex<()>,
    taken: Condvar,
}

/// Limits the number and the size of the answers that have not been taken. Belongs to the reader.
pub(super) struct Ahead {
    flow: Arc<Flow>,
    /// Answers that have not been taken, and whether their size has been recorded.
    out: VecDeque<(Arc<Answer>, bool)>,
    /// Number of documents and size in bytes of recent answers.
    last: VecDeque<(usize, usize)>,
    threads: usize,
}

impl Ahead {
    /// `per_document`: average size of a document's rows in the existing index, in bytes; 0 if unknown.
    pub fn new(threads: usize, per_document: usize) -> Ahead {
        let last = if per_document > 0 { VecDeque::from([(1, per_document)]) } else { VecDeque::new() };
        Ahead { flow: Arc::default(), out: VecDeque::new(), last, threads: threads.max(1) }
    }

    /// Adds a pending answer.
    pub fn add(&mut self, documents: usize, pending: Pending<Mapped>) -> Arc<Answer> {
        self.added(documents, UNKNOWN, State::Coming(pending))
    }

    /// Adds an available answer.
    pub fn add_made(&mut self, documents: usize, made: Result<Mapped>) -> Arc<Answer> {
        let bytes = made.as_ref().map_or(BATCH_LIMIT, Mapped::bytes);
        self.added(documents, bytes, State::There(made))
    }

    fn added(&mut self, documents: usize, bytes: usize, state: State) -> Arc<Answer> {
        let (state, bytes) = (Mutex::new(state), AtomicUsize::new(bytes));
        let answer = Arc::new(Answer { documents, state, bytes, flow: self.flow.clone() });
        self.out.push_back((answer.clone(), false));
        answer
    }

    /// Returns how many documents a batch should have, for a page of `page` documents.
    pub fn batch(&self, page: usize) -> usize {
        let per_document = self.last.iter().map(|(documents, bytes)| bytes / documents.max(&1)).max().unwrap_or(0);
        let fits = (BATCH_LIMIT / 4).checked_div(per_document).unwrap_or(usize::MAX);
        page.div_ceil(2 * self.threads).clamp(8, MAPPED_AT_ONCE).min(fits).min(page).max(1)
    }

    /// Waits until another batch may be mapped. `alone`: the caller is also the writer, so nothing takes
    /// answers meanwhile. In this case, the result `true` means that the caller should take the available
    /// answers first.
    pub fn wait(&mut self, alone: bool) -> bool {
        loop {
            self.look();
            let there = |(answer, _): &(Arc<Answer>, bool)| answer.bytes();
            let coming = self.out.iter().filter(|out| there(out).is_none()).count();
            let waiting: usize = self.out.iter().filter_map(there).sum();
            let most = match self.last.iter().map(|(_, bytes)| *bytes).max() {
                None => self.threads,
                Some(largest) => (COMING / largest.max(1)).clamp(1, 2 * self.threads + 2),
            };
            let oldest = self.out.iter().find(|(answer, _)| answer.is_coming());
            if coming >= most
                && let Some((answer, _)) = oldest
            {
                // The writer needs this answer next.
                answer.look(true);
            } else if coming < most && (alone || waiting <= WAITING) {
                return waiting > WAITING;
            } else {
                // The writer waits for the only pending answer, or too many answers wait for the writer.
                let mut lock = self.flow.lock.lock();
                self.flow.taken.wait_for(&mut lock, LOOK);
            }
        }
    }

    /// Records the size of answers that have arrived, and forgets those that were taken.
    fn look(&mut self) {
        let last = &mut self.last;
        self.out.retain_mut(|(answer, noted)| {
            if Arc::strong_count(answer) == 1 && answer.bytes().is_none() {
                // The writer has failed and will not take the answer.
                return false;
            }
            answer.look(false);
            let Some(bytes) = answer.bytes() else { return true };
            if !std::mem::replace(noted, true) {
                last.push_back((answer.documents, bytes));
            }
            !answer.is_taken() && Arc::strong_count(answer) > 1
        });
        last.drain(..last.len().saturating_sub(REMEMBERED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(bytes: usize) -> Result<Mapped> {
        let mut mapped = Mapped::new(1);
        assert!(mapped.push(&format!("[[\"{}\",1]]", "x".repeat(bytes))));
        Ok(mapped)
    }

    #[test]
    fn large_answers_make_the_next_batches_small() {
        let mut ahead = Ahead::new(2, 0);
        assert_eq!((ahead.batch(1000), ahead.batch(20), ahead.batch(3)), (100, 8, 3));
        let answer = ahead.add_made(100, made(100));
        ahead.wait(true);
        assert_eq!(ahead.batch(1000), 100);
        answer.take().unwrap();
        let large = ahead.add_made(1, made(BATCH_LIMIT / 8));
        ahead.wait(true);
        assert_eq!(ahead.batch(1000), 1, "one is half of the target size of a batch");
        large.take().unwrap();
        assert!(large.take().is_err());
        for _ in 0..REMEMBERED {
            ahead.add_made(100, made(100)).take().unwrap();
        }
        ahead.wait(false);
        assert_eq!(
            (ahead.batch(1000), ahead.out.len()),
            (100, 0),
            "the large answer is no longer among the recent ones"
        );
        assert_eq!(Ahead::new(2, BATCH_LIMIT).batch(1000), 1, "the index has many rows per document");
    }
}
