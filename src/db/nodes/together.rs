//! Batches the reads of concurrent requests on a shared store: one read for all requests that wait.
//!
//! A read begins after its requests have arrived, so it sees every write that any node acknowledged before them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::Databases;
use crate::blocking::panicked;
use crate::db::Database;
use crate::db::freshness::{Look, Looks, Wanted};
use crate::db::prefetched::Kept;
use crate::error::{Error, Result};
use crate::store::keyspace;

/// Another read starts beside the running ones if as many requests wait as these read for, or at least this many. A slow
/// read, which reads what has changed, therefore does not delay all requests, and under load few reads serve many requests.
const MANY: usize = 16;
/// Maximum number of concurrent reads.
const AT_ONCE: usize = 4;

impl Databases {
    /// Learns what other nodes have written: the registered records, and the open ones among the databases
    /// `names`. One read if nothing has changed, for all requests that wait. Does nothing on an embedded store.
    ///
    /// # Errors
    /// Those of the store; [`Error::Damaged`] if a record of one of these databases is damaged.
    pub async fn catch_up_together(self: &Arc<Self>, names: &[&str]) -> Result<()> {
        self.catch_up_for(names, None).await.map(drop)
    }

    /// As [`Databases::catch_up_together`], for a request to one document: its id, with the name of its database,
    /// which is one of `names`. If the database is open, reads the document's record with the counters. The reader or the
    /// writer uses it as long as what is returned is kept.
    ///
    /// # Errors
    /// As [`Databases::catch_up_together`].
    pub async fn catch_up_for(
        self: &Arc<Self>,
        names: &[&str],
        document: Option<(&str, &str)>,
    ) -> Result<Option<Kept>> {
        if !self.store().is_shared() {
            return Ok(None);
        }
        let databases: Vec<_> = names.iter().filter_map(|name| self.opened(name)).collect();
        let record = document.and_then(|(name, id)| {
            let database = databases.iter().find(|database| database.name() == name)?.clone();
            let key = keyspace::document(database.number, id);
            Some((database, key))
        });
        let kept = record.clone().map(|(database, key)| Kept::new(database.prefetched.clone(), key));
        self.look_with(databases, record).await.map(|()| kept)
    }

    async fn look_with(self: &Arc<Self>, databases: Vec<Arc<Database>>, record: Option<Wanted>) -> Result<()> {
        let (answer, learned) = oneshot::channel();
        let starts = {
            let mut looks = self.freshness.looks.lock();
            looks.waiting.push(Look { databases, record, answer });
            let starts = !looks.starts && looks.running < AT_ONCE && looks.is_enough();
            looks.running += usize::from(starts);
            looks.starts |= starts;
            starts
        };
        if starts {
            let looking = Looking { databases: self.clone(), requests: 0, counts: true, starts: true };
            tokio::spawn(looking.run());
        }
        learned.await.unwrap_or_else(|_| Err(Error::Internal("a look at the store ended without an answer".into())))
    }

    /// Makes one read for all requests of `waiting`. Returns the answer to each.
    async fn look_for(&self, waiting: &[Look]) -> Vec<Result<()>> {
        let error = match self.look_at_once_for(waiting).await {
            Ok(answers) => return answers,
            Err(error) => error,
        };
        if waiting.len() == 1 || matches!(error, Error::Down(_)) {
            return waiting.iter().map(|_| Err(error.clone())).collect();
        }
        // A database of a single request may have caused the error: read for each request alone.
        let mut answers = Vec::with_capacity(waiting.len());
        for look in waiting.chunks(1) {
            answers.extend(self.look_at_once_for(look).await.unwrap_or_else(|error| vec![Err(error)]));
        }
        answers
    }

    async fn look_at_once_for(&self, waiting: &[Look]) -> Result<Vec<Result<()>>> {
        let mut databases: Vec<Arc<Database>> = waiting.iter().flat_map(|look| look.databases.clone()).collect();
        databases.sort_unstable_by_key(|database| (database.number, Arc::as_ptr(database)));
        databases.dedup_by(|one, other| Arc::ptr_eq(one, other));
        let is_wanted = |look: &&Look| !look.answer.is_closed();
        let wanted: Vec<Wanted> = waiting.iter().filter(is_wanted).filter_map(|look| look.record.clone()).collect();
        let learned = self.learn_each(databases.clone(), wanted).await?;
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
        Ok(waiting.iter().map(answer).collect())
    }
}

/// A task that reads for the waiting requests: counted in `Looks::running`.
struct Looking {
    databases: Arc<Databases>,
    /// The requests that it reads for: counted in `Looks::under_way`.
    requests: usize,
    counts: bool,
    /// Whether it is the one that `Looks::starts` stands for.
    starts: bool,
}

impl Looks {
    /// Whether enough requests wait for another read beside those under way.
    fn is_enough(&self) -> bool {
        self.waiting.len() >= self.under_way.min(MANY)
    }
}

impl Looking {
    /// Reads until few requests wait.
    async fn run(mut self) {
        // Requests that are about to look join the first read.
        tokio::task::yield_now().await;
        while let Some(waiting) = self.next() {
            // A panic is a bug. The requests of this read get an error, and later ones are served.
            let looked = AssertUnwindSafe(self.databases.look_for(&waiting)).catch_unwind().await;
            let answers = looked.unwrap_or_else(|panic| waiting.iter().map(|_| Err(panicked(&*panic))).collect());
            let down = answers.iter().find(|answer| matches!(answer, Err(Error::Down(_)))).cloned();
            for (look, answer) in waiting.into_iter().zip(answers) {
                let _ = look.answer.send(answer);
            }
            if let Some(down) = down {
                // Requests that arrived meanwhile would wait as long for the same error.
                for look in std::mem::take(&mut self.databases.freshness.looks.lock().waiting) {
                    let _ = look.answer.send(down.clone());
                }
            }
        }
    }

    /// Takes the waiting requests. If there are too few, the task is no longer counted: the next requests start another,
    /// or a read that is under way is followed by theirs.
    fn next(&mut self) -> Option<Vec<Look>> {
        let mut looks = self.databases.freshness.looks.lock();
        looks.under_way -= std::mem::take(&mut self.requests);
        if std::mem::take(&mut self.starts) {
            looks.starts = false;
        }
        let waiting = if looks.is_enough() { std::mem::take(&mut looks.waiting) } else { Vec::new() };
        self.requests = waiting.len();
        looks.under_way += waiting.len();
        if waiting.is_empty() {
            looks.running -= 1;
            self.counts = false;
        }
        Some(waiting).filter(|waiting| !waiting.is_empty())
    }
}

impl Drop for Looking {
    /// If the runtime has ended: requests that no other task serves get an error.
    fn drop(&mut self) {
        if self.counts {
            let mut looks = self.databases.freshness.looks.lock();
            looks.running -= 1;
            looks.under_way -= self.requests;
            looks.starts &= !self.starts;
            let given_up = if looks.running == 0 { std::mem::take(&mut looks.waiting) } else { Vec::new() };
            drop(looks);
            drop(given_up);
        }
    }
}
