//! What is mapped ahead of the writer of an index, within a bound of what is emitted.
//!
//! A function may emit any number of rows for a document, and nobody knows how many before it has run. So few batches are
//! out at a time whose answers are not there yet, fewer where the last ones were large, and the bytes of the answers that
//! wait for the writer are counted. A batch that emits too much is mapped again document by document (see `build`).

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

/// Bytes of answers that wait for the writer.
const WAITING: usize = 16 << 20;
/// Bytes of answers on their way, if they are as large as the largest of the last ones.
const COMING: usize = 32 << 20;
/// The pause between two looks whether the writer has taken something.
const LOOK: Duration = Duration::from_millis(20);
/// Answers that tell how large the next will be.
const REMEMBERED: usize = 16;
/// Documents of one call of the map functions at most, and about how many bytes of them.
const MAPPED_AT_ONCE: usize = 250;
pub(super) const BATCH_BYTES: u64 = 1 << 20;

/// What is emitted for a batch of documents: on its way, there, or taken.
enum State {
    Coming(Pending<Mapped>),
    There(Result<Mapped>),
    Taken,
}

/// The answer for one batch; the writer and the one who reads ahead share it.
pub(super) struct Answer {
    documents: usize,
    state: Mutex<State>,
    /// Bytes of the answer, once it is there.
    bytes: AtomicUsize,
    flow: Arc<Flow>,
}

const UNKNOWN: usize = usize::MAX;

impl Answer {
    /// Waits for what is emitted. Blocks.
    pub fn take(&self) -> Result<Mapped> {
        let answer = match std::mem::replace(&mut *self.state.lock(), State::Taken) {
            State::Coming(pending) => self.arrived(pending.wait()),
            State::There(answer) => answer,
            State::Taken => Err(Error::Internal("the rows of a batch are taken twice".into())),
        };
        self.flow.taken.notify_all();
        answer
    }

    fn arrived(&self, answer: Result<Mapped>) -> Result<Mapped> {
        self.bytes.store(answer.as_ref().map_or(BATCH_LIMIT, Mapped::bytes), Ordering::Relaxed);
        answer
    }

    /// Looks whether it is there; waits for it if `wait` says so.
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

    fn is_taken(&self) -> bool {
        matches!(&*self.state.lock(), State::Taken)
    }

    /// Bytes of the answer; `None`: it is not there yet.
    fn bytes(&self) -> Option<usize> {
        Some(self.bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes != UNKNOWN)
    }
}

/// The answer, if it is there.
fn poll_now(pending: &mut Pending<Mapped>) -> Option<Result<Mapped>> {
    match Pin::new(pending).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// Rung when the writer has taken an answer.
#[derive(Default)]
struct Flow {
    lock: Mutex<()>,
    taken: Condvar,
}

/// Hands out answers and looks after how many there are. Of the one who reads ahead.
pub(super) struct Ahead {
    flow: Arc<Flow>,
    /// Answers that are not taken yet, and whether their size has been noted.
    out: VecDeque<(Arc<Answer>, bool)>,
    /// Documents and bytes of the last answers.
    last: VecDeque<(usize, usize)>,
    threads: usize,
}

impl Ahead {
    /// `per_document`: bytes that a document's rows are known to have.
    pub fn new(threads: usize, per_document: usize) -> Ahead {
        let last = if per_document > 0 { VecDeque::from([(1, per_document)]) } else { VecDeque::new() };
        Ahead { flow: Arc::default(), out: VecDeque::new(), last, threads: threads.max(1) }
    }

    /// Takes charge of an answer.
    pub fn add(&mut self, documents: usize, pending: Pending<Mapped>) -> Arc<Answer> {
        self.added(documents, UNKNOWN, State::Coming(pending))
    }

    /// The same of one that is there.
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

    /// How many documents a batch of a page with this many documents should have.
    pub fn batch(&self, page: usize) -> usize {
        let per_document = self.last.iter().map(|(documents, bytes)| bytes / documents.max(&1)).max().unwrap_or(0);
        let fits = (BATCH_LIMIT / 4).checked_div(per_document).unwrap_or(usize::MAX);
        page.div_ceil(2 * self.threads).clamp(8, MAPPED_AT_ONCE).min(fits).min(page).max(1)
    }

    /// Waits until another batch may be mapped. `alone`: nobody takes answers meanwhile; true then says that those which
    /// are there should be taken first.
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
            if coming >= most {
                // The oldest: the writer needs that one first.
                let oldest = self.out.iter().find(|out| there(out).is_none());
                oldest.iter().for_each(|(answer, _)| answer.look(true));
            } else if alone || waiting <= WAITING {
                return waiting > WAITING;
            } else {
                let mut lock = self.flow.lock.lock();
                self.flow.taken.wait_for(&mut lock, LOOK);
            }
        }
    }

    /// Notes how large the answers are that have come, and forgets those that were taken.
    fn look(&mut self) {
        let last = &mut self.last;
        self.out.retain_mut(|(answer, noted)| {
            if Arc::strong_count(answer) == 1 && answer.bytes().is_none() {
                // Nobody will take it: the writer has failed.
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
        assert_eq!((ahead.batch(1000), ahead.batch(20), ahead.batch(3)), (250, 8, 3));
        let answer = ahead.add_made(100, made(100));
        ahead.wait(true);
        assert_eq!(ahead.batch(1000), 250);
        answer.take().unwrap();
        let large = ahead.add_made(1, made(BATCH_LIMIT / 8));
        ahead.wait(true);
        assert_eq!(ahead.batch(1000), 1, "one is a half of what a batch should have");
        large.take().unwrap();
        assert!(large.take().is_err());
        for _ in 0..REMEMBERED {
            ahead.add_made(100, made(100)).take().unwrap();
        }
        ahead.wait(false);
        assert_eq!((ahead.batch(1000), ahead.out.len()), (250, 0), "it was long ago");
        assert_eq!(Ahead::new(2, BATCH_LIMIT).batch(1000), 1, "the index is known to have many rows for each");
    }
}
