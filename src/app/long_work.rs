//! Long work that an admin starts over HTTP, a backup or a check: never two of a kind at once. Reports the
//! progress, and the result of the last one.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One kind of work.
pub struct LongWork<T> {
    turn: Arc<Semaphore>,
    state: Mutex<State<T>>,
}

struct State<T> {
    running: Option<Running>,
    last: Option<(u64, T)>,
}

/// How far the work is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Running {
    /// Milliseconds since 1970.
    pub started: u64,
    /// What it works on.
    pub phase: String,
    pub done: u64,
    /// 0 if it is not known.
    pub total: u64,
}

/// The right to do the work. Dropping it ends the work, with or without a result.
pub struct Turn<T> {
    work: Arc<LongWork<T>>,
    _turn: OwnedSemaphorePermit,
}

impl<T> Default for LongWork<T> {
    fn default() -> LongWork<T> {
        LongWork { turn: Arc::new(Semaphore::new(1)), state: Mutex::new(State { running: None, last: None }) }
    }
}

impl<T: Clone> LongWork<T> {
    /// Begins the work, unless it is under way already. `now` is in milliseconds since 1970.
    pub fn begin(self: &Arc<Self>, now: u64) -> Option<Turn<T>> {
        let turn = self.turn.clone().try_acquire_owned().ok()?;
        self.state.lock().running = Some(Running { started: now, phase: String::new(), done: 0, total: 0 });
        Some(Turn { work: self.clone(), _turn: turn })
    }

    /// The semaphore that is held during the work. Callers that do the same work in another way take it, too.
    pub fn turn(&self) -> &Arc<Semaphore> {
        &self.turn
    }

    /// What runs now.
    pub fn running(&self) -> Option<Running> {
        self.state.lock().running.clone()
    }

    /// When the last one ended, and its result.
    pub fn last(&self) -> Option<(u64, T)> {
        self.state.lock().last.clone()
    }
}

impl<T> Turn<T> {
    /// Tells how far the work is.
    pub fn progress(&self, phase: &str, done: u64, total: u64) {
        if let Some(running) = &mut self.work.state.lock().running {
            if running.phase != phase {
                phase.clone_into(&mut running.phase);
            }
            (running.done, running.total) = (done, total);
        }
    }

    /// Ends the work with a result.
    pub fn end(self, now: u64, result: T) {
        self.work.state.lock().last = Some((now, result));
    }
}

impl<T> Drop for Turn<T> {
    fn drop(&mut self) {
        self.work.state.lock().running = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_a_kind_never_run_at_once() {
        let work: Arc<LongWork<&str>> = Arc::default();
        let turn = work.begin(5).unwrap();
        assert!(work.begin(6).is_none());
        turn.progress("notes", 1, 2);
        let running = Running { started: 5, phase: "notes".into(), done: 1, total: 2 };
        assert_eq!((work.running(), work.last()), (Some(running), None));
        turn.end(9, "well");
        assert_eq!((work.running(), work.last()), (None, Some((9, "well"))));
        drop(work.begin(10).unwrap());
        assert_eq!((work.running(), work.last()), (None, Some((9, "well"))), "it has told no result");
        let other = work.turn().clone().try_acquire_owned().unwrap();
        assert!(work.begin(11).is_none(), "somebody else does the same");
        drop(other);
        assert!(work.begin(12).is_some());
    }
}
