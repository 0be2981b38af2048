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
            let own = self.clone();
            tokio::task::spawn_blocking(move || own.look_for_all());
        }
        learned.await.unwrap_or_else(|_| Err(Error::Internal("a look at the store ended without an answer".into())))
    }

    /// Looks until no request waits.
    fn look_for_all(&self) {
        loop {
            let waiting = {
                let mut looks = self.freshness.looks.lock();
                let waiting = std::mem::take(&mut looks.waiting);
                looks.running -= usize::from(waiting.is_empty());
                waiting
            };
            if waiting.is_empty() {
                return;
            }
            // A panic is a bug. Those who wait get an error, and the next ones are served.
            let looked = catch_unwind(AssertUnwindSafe(|| self.look_for(&waiting)));
            let answers = looked.unwrap_or_else(|panic| waiting.iter().map(|_| Err(panicked(&*panic))).collect());
            for (look, answer) in waiting.into_iter().zip(answers) {
                let _ = look.answer.send(answer);
            }
        }
    }

    /// One read for all of them. Returns the answer of each.
    fn look_for(&self, waiting: &[Look]) -> Vec<Result<()>> {
        let mut databases: Vec<Arc<Database>> = waiting.iter().flat_map(|look| look.databases.clone()).collect();
        databases.sort_unstable_by_key(|database| (database.number, Arc::as_ptr(database)));
        databases.dedup_by(|one, other| Arc::ptr_eq(one, other));
        let learned = match self.learn_each(&databases) {
            Ok(learned) => learned,
            Err(error) => return waiting.iter().map(|_| Err(error.clone())).collect(),
        };
        let failed = |look: &Look| {
            let is_of = |database: &Arc<Database>| look.databases.iter().any(|own| Arc::ptr_eq(own, database));
            databases.iter().zip(&learned).find_map(|(database, learned)| match learned {
                Err(error) if is_of(database) => Some(error.clone()),
                Ok(()) | Err(_) => None,
            })
        };
        waiting.iter().map(|look| failed(look).map_or(Ok(()), Err)).collect()
    }
}
