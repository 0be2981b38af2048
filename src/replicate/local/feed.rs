//! The changes of a database of this server.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use super::blocking::blocking;
use super::failure::failure;
use crate::db::record::SequenceRow;
use crate::db::{Database, Moved, Since};
use crate::query::changes_filter::Filter;
use crate::replicate::Pending;
use crate::replicate::access::Access;
use crate::replicate::failure::Failure;
use crate::replicate::peer::{Change, Feed, Page};
use crate::store::{Direction, PageLimit};

/// Bytes of rows read at once.
const PAGE_BYTES: usize = 1 << 20;

/// Reads the changes of a database page by page.
pub(super) struct LocalFeed<'a> {
    access: &'a dyn Access,
    name: &'a str,
    database: Arc<Database>,
    filter: Filter,
    all_leaves: bool,
    after: u64,
    /// The store's history in which `after` was read; each failover of a shared store begins another one.
    history: Option<u64>,
}

impl<'a> LocalFeed<'a> {
    /// A feed from the first change on.
    pub fn new(
        access: &'a dyn Access,
        name: &'a str,
        database: Arc<Database>,
        filter: Filter,
        all_leaves: bool,
    ) -> LocalFeed<'a> {
        LocalFeed { access, name, database, filter, all_leaves, after: 0, history: None }
    }

    /// The feed after a sequence: JSON, as checkpoints have it.
    pub fn after(mut self, since: &Value) -> Result<LocalFeed<'a>, Failure> {
        let text = match since {
            Value::Null => return Ok(self),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        self.history = self.database.history();
        self.after = match self.database.parse_since(&text) {
            Ok(Since::Sequence(sequence)) => sequence.min(self.database.info().sequence),
            Ok(Since::Now) => self.database.info().sequence,
            Err(error) => return Err(Failure::BadRequest(error.to_string())),
        };
        Ok(self)
    }

    /// Checks that the user may still read, and that the database is still the one that the feed began with.
    fn check(&self) -> Result<(), Failure> {
        let database = self.access.readable(self.name).map_err(|error| failure(self.name, error))?;
        if database.number() == self.database.number() { Ok(()) } else { Err(Failure::Gone(self.name.to_owned())) }
    }

    async fn read(&mut self, most: usize) -> Result<Page, Failure> {
        self.check()?;
        let before = std::mem::replace(&mut self.history, self.database.history());
        if self.database.is_shared() {
            self.after = self.database.position(self.after, before);
        }
        let last = self.database.info().sequence;
        let (database, after) = (self.database.clone(), self.after);
        let (rows, done, through) = match &self.filter {
            // Some documents of a long feed: read those documents.
            Filter::DocIds(ids) if last.saturating_sub(after) > ids.len() as u64 => {
                (changes_of(database, ids.clone(), after, last).await?, true, last)
            }
            _ => {
                let limit = PageLimit { entries: most, bytes: PAGE_BYTES };
                let page = blocking(move || database.changes(after, Direction::Forward, limit)).await;
                let page = page.map_err(|error| failure(self.name, error))?;
                (page.rows, page.done, page.through)
            }
        };
        self.after = through;
        let changes = self.judge(rows).await?;
        let pending = self.database.info().sequence.saturating_sub(self.after);
        let through = self.database.wire_sequence(self.after, self.history).into();
        Ok(Page { changes, through, pending: Some(pending), is_last: done })
    }

    async fn judge(&self, rows: Vec<(u64, SequenceRow)>) -> Result<Vec<Change>, Failure> {
        let all = self.all_leaves;
        if self.filter.passes_all() {
            let change = |(_, mut row): (u64, SequenceRow)| {
                row.leaves.truncate(if all { usize::MAX } else { 1 });
                Change { id: row.id, revisions: row.leaves.into_iter().map(|leaf| leaf.revision).collect() }
            };
            return Ok(rows.into_iter().map(change).collect());
        }
        let judged = self.filter.judge(&self.database, rows, all).await.map_err(|error| failure(self.name, error))?;
        let change = |judged: crate::query::changes_filter::Judged| {
            let revisions = judged.leaves.iter().map(|at| judged.row.leaves[*at].revision.clone()).collect();
            Change { id: judged.row.id, revisions }
        };
        Ok(judged.into_iter().map(change).collect())
    }
}

/// The rows of some documents that have changed after `after`, up to the sequence `last`.
async fn changes_of(
    database: Arc<Database>,
    ids: Arc<HashSet<String>>,
    after: u64,
    last: u64,
) -> Result<Vec<(u64, SequenceRow)>, Failure> {
    let name = database.name().to_owned();
    let read = blocking(move || {
        let ids: Vec<String> = ids.iter().cloned().collect();
        database.changes_of(&ids, after)
    });
    let rows = read.await.map_err(|error| failure(&name, error))?;
    // What has changed again meanwhile comes with the next page.
    Ok(rows.into_iter().filter(|(sequence, _)| *sequence <= last).collect())
}

impl Feed for LocalFeed<'_> {
    fn next(&mut self, most: usize, wait: bool) -> Pending<'_, Result<Page, Failure>> {
        Box::pin(async move {
            let mut moved = wait.then(|| self.database.watch());
            loop {
                let page = self.read(most).await?;
                let Some(moved) = moved.as_mut().filter(|_| page.is_last && page.changes.is_empty()) else {
                    return Ok(page);
                };
                let changed = moved.wait_for(|moved| !matches!(moved, Moved::To(last) if *last <= self.after)).await;
                if changed.is_err() {
                    return Err(Failure::Gone(self.name.to_owned()));
                }
            }
        })
    }
}
