//! Requests that arrive while others learn from the store do so together: one read and one thread for all of them.
//!
//! A look begins after the request has come, so it sees all that any node has acknowledged before.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Databases;
use crate::blocking::panicked;
use crate::db::Database;
use crate::db::freshness::Look;
use crate::error::{Error, Result};

/// So many looks begin as soon as a request comes.
const FREE: usize = 2;
/// Another one begins beside those under way if so many requests wait: one that takes long, because it reads what has
/// changed, does not delay all of them.
const MANY: usize = 16;
/// The most looks at a time.
const AT_ONCE: usize = 4;

impl Databases {
    /// As [`Databases::catch_up`], together with other requests. Does not block.
    ///
    /// # Errors
    /// Those of the store. [`Error::Damaged`] if a record of one of these databases is.
    pub async fn catch_up_together(self: &Arc<Self>, names: &[&str]) -> Result<()> {
        if !self.store().is_shared() {
            return Ok(());
        }
        let databases = names.iter().filter_map(|name| self.opened(name)).collect();
        let (answer, learned) = oneshot::channel();
        let starts = {
            let mut looks = self.freshness.looks.lock();
            looks.waiting.push(Look { databases, answer });
            let starts = looks.running < FREE || looks.running < AT_ONCE && looks.waiting.len() >= MANY;
            looks.running += usize::from(starts);
            starts
        };
        if starts {
            let looking = Looking { databases: self.clone(), counts: true };
            tokio::task::spawn_blocking(move || looking.run());
        }
        learned.await.unwrap_or_else(|_| Err(Error::Internal("a look at the store ended without an answer".into())))
    }

    /// One read for all of them. Returns the answer of each.
    fn look_for(&self, waiting: &[Look]) -> Vec<Result<()>> {
        let mut databases: Vec<Arc<Database>> = waiting.iter().flat_map(|look| look.databases.clone()).collect();
        databases.sort_unstable_by_key(|database| (database.number, Arc::as_ptr(database)));
        databases.dedup_by(|one, other| Arc::ptr_eq(one, other));
        let learned = match self.learn_each(&databases) {
            Ok(learned) => learned,
            Err(error) if waiting.len() == 1 || matches!(error, Error::Down(_)) => {
                return waiting.iter().map(|_| Err(error.clone())).collect();
            }
            // It may be the fault of a database of one of them.
            Err(_) => return waiting.chunks(1).flat_map(|look| self.look_for(look)).collect(),
        };
        let failed: Vec<(&Arc<Database>, &Error)> = databases
            .iter()
            .zip(&learned)
            .filter_map(|(database, learned)| Some((database, learned.as_ref().err()?)))
            .collect();
        let answer = |look: &Look| {
            let is_of = |database: &Arc<Database>| look.databases.iter().any(|own| Arc::ptr_eq(own, database));
            let error = failed.iter().find(|(database, _)| is_of(database)).map(|(_, error)| (*error).clone());
            error.map_or(Ok(()), Err)
        };
        waiting.iter().map(answer).collect()
    }
}

/// A thread that looks, or is about to: counted in `Looks::running`.
struct Looking {
    databases: Arc<Databases>,
    counts: bool,
}

impl Looking {
    /// Looks until no request waits.
    fn run(mut self) {
        while let Some(waiting) = self.next() {
            // A panic is a bug. Those who wait get an error, and the next ones are served.
            let looked = catch_unwind(AssertUnwindSafe(|| self.databases.look_for(&waiting)));
            let answers = looked.unwrap_or_else(|panic| waiting.iter().map(|_| Err(panicked(&*panic))).collect());
            let down = answers.iter().find(|answer| matches!(answer, Err(Error::Down(_)))).cloned();
            for (look, answer) in waiting.into_iter().zip(answers) {
                let _ = look.answer.send(answer);
            }
            if let Some(down) = down {
                // Those who have come meanwhile would wait as long for the same answer.
                for look in std::mem::take(&mut self.databases.freshness.looks.lock().waiting) {
                    let _ = look.answer.send(down.clone());
                }
            }
        }
    }

    /// Those who wait. If there are none, the thread no longer counts: the next request starts another one.
    fn next(&mut self) -> Option<Vec<Look>> {
        let mut looks = self.databases.freshness.looks.lock();
        let waiting = std::mem::take(&mut looks.waiting);
        if waiting.is_empty() {
            looks.running -= 1;
            self.counts = false;
        }
        Some(waiting).filter(|waiting| !waiting.is_empty())
    }
}

impl Drop for Looking {
    /// If it never ran, because there was no thread for it or the runtime has ended: those for whom nobody looks get an
    /// error.
    fn drop(&mut self) {
        if self.counts {
            let mut looks = self.databases.freshness.looks.lock();
            looks.running -= 1;
            let given_up = if looks.running == 0 { std::mem::take(&mut looks.waiting) } else { Vec::new() };
            drop(looks);
            drop(given_up);
        }
    }
}
