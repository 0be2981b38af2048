//! The calls of [`Store`].

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::arrays::{Encoded, Write};
use super::commits::Commits;
use super::connections::Connections;
use super::encode::place;
use super::leases::{Turns, lease};
use super::marks;
use super::measured_size::MeasuredSize;
use super::notices::Notices;
use super::reads::Reads;
use super::runtime::{Answer, Threads, received};
use crate::store::embedded::frame::Frames;
use crate::store::range::KeyRange;
use crate::store::reserved_keys::check_key;
use crate::store::{Batch, Direction, Entry, Hear, Later, LeftMarks, Mark, PageLimit, Result, Store, StoreError};

/// The ordered map in a database.
pub(super) struct PostgresStore {
    connections: Connections,
    frames: Frames,
    reads: Reads,
    commits: Arc<Commits>,
    /// Started on first use.
    notices: OnceLock<Notices>,
    turns: Turns,
    size: MeasuredSize,
    /// The last field, so that the threads end after the other fields are dropped.
    threads: Arc<Threads>,
}

impl PostgresStore {
    pub fn new(connections: Connections, threads: Arc<Threads>, frames: Frames, sealed: bool) -> PostgresStore {
        PostgresStore {
            reads: Reads::new(connections.clone(), frames.clone(), sealed),
            commits: Commits::new(connections.clone(), threads.handle()),
            notices: OnceLock::new(),
            turns: Turns::new(connections.clone()),
            size: MeasuredSize::default(),
            connections,
            frames,
            threads,
        }
    }

    fn notices(&self) -> &Notices {
        self.notices.get_or_init(|| Notices::start(self.connections.clone(), self.threads.handle()))
    }

    /// Commits a batch. `answer` gets the result.
    fn submit(&self, batch: Batch, answer: Answer<()>) {
        let mut keys = batch.writes.iter().map(|(key, _)| key).chain(batch.expect.iter().map(|(key, _)| key));
        match keys.try_for_each(|key| check_key(key)).and_then(|()| self.encode(batch)) {
            Ok(batch) if batch.expect.is_empty() && batch.writes.is_empty() => answer.send(Ok(())),
            Ok(batch) => self.commits.submit(batch, answer),
            Err(error) => answer.send(Err(error)),
        }
    }

    /// The rows of a batch. `Conflict` if it expects two values of one key.
    fn encode(&self, batch: Batch) -> Result<Encoded> {
        let mut bytes = 0;
        let mut sealed = |key: &[u8], value: Option<Vec<u8>>| {
            let framed = value.map(|value| self.frames.seal(key, &value));
            bytes += key.len() + framed.as_ref().map_or(0, Vec::len);
            framed
        };
        let mut expect: HashMap<Vec<u8>, Option<Vec<u8>>> = HashMap::with_capacity(batch.expect.len());
        for (key, value) in batch.expect {
            let value = sealed(&key, value);
            if expect.get(&key).is_some_and(|other| *other != value) {
                return Err(StoreError::Conflict);
            }
            expect.insert(key, value);
        }
        let mut writes: HashMap<Vec<u8>, Option<Vec<u8>>> = HashMap::with_capacity(batch.writes.len());
        // The last write of a key wins.
        writes.extend(batch.writes);
        let writes: Vec<_> = writes
            .into_iter()
            .map(|(key, value)| Write { is_new: batch.new.contains(&key), row: (place(&key), sealed(&key, value)) })
            .collect();
        let expect = expect.into_iter().map(|(key, value)| (place(&key), value)).collect();
        let mark = batch.mark.map(|mark| (mark.database as i64, mark.sequence));
        Ok(Encoded { expect, writes, mark, bytes })
    }
}

impl Store for PostgresStore {
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        self.get_each(keys)?.into_iter().collect()
    }

    fn get_each(&self, keys: &[Vec<u8>]) -> Result<Vec<Result<Option<Vec<u8>>>>> {
        self.reads.get_each(&self.threads, keys)
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        self.reads.scan(&self.threads, range, direction, limit)
    }

    fn keys(&self, range: &KeyRange, entries: usize) -> Result<Vec<Vec<u8>>> {
        let page = self.reads.framed(&self.threads, range, Direction::Forward, PageLimit::entries(entries))?;
        Ok(page.into_iter().map(|(key, _)| key).collect())
    }

    /// Every commit is durable, even a relaxed one: a crash of the database must not lose what other nodes have read.
    fn commit(&self, batch: Batch) -> Result<()> {
        let (answer, result) = Answer::to_thread();
        self.submit(batch, answer);
        received(&result)
    }

    fn begin_get_each(&self, keys: Vec<Vec<u8>>) -> Later<Vec<Result<Option<Vec<u8>>>>> {
        self.reads.begin_get_each(&self.threads, keys)
    }

    fn begin_commit(&self, batch: Batch) -> Later<()> {
        let (answer, result) = Answer::to_task();
        self.submit(batch, answer);
        result
    }

    fn ready(&self) -> Result<()> {
        let connections = self.connections.clone();
        let is_standby = self.threads.wait(async move {
            let row = connections.row("select pg_is_in_recovery()", Vec::new()).await?;
            Ok(row.get::<_, bool>(0))
        })?;
        match is_standby {
            true => Err(StoreError::Down("the database server is a standby".into())),
            false => Ok(()),
        }
    }

    fn engine(&self) -> &'static str {
        "postgres"
    }

    fn disk_bytes(&self) -> u64 {
        let sql = format!("select pg_total_relation_size('{}.kv')", self.connections.address.schema);
        let connections = self.connections.clone();
        self.size.get(|| self.threads.wait(async move { connections.row(&sql, Vec::new()).await }))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn tell(&self, moved: &[u64]) {
        self.notices().tell(moved);
    }

    fn listen(&self, hear: Hear) {
        self.notices().listen(Arc::from(hear), self.threads.handle());
    }

    fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool> {
        self.threads.wait(lease(self.connections.clone(), name.to_owned(), owner.to_owned(), ttl))
    }

    fn turn(&self, db: u64) -> Option<Box<dyn Send>> {
        self.turns.take(&self.threads, db)
    }

    fn announced(&self, marks: &[Mark]) {
        self.commits.announced(marks);
    }

    fn left_marks(&self) -> Result<LeftMarks> {
        self.threads.wait(marks::take(self.connections.clone()))
    }

    fn settle_marks(&self, left: LeftMarks) -> Result<()> {
        self.threads.wait(marks::settle(self.connections.clone(), left))
    }

    fn epoch(&self) -> Result<u64> {
        if let Some(known) = self.connections.hosts.known_timeline() {
            return Ok(known);
        }
        let connections = self.connections.clone();
        self.threads.wait(async move { connections.epoch().await })
    }
}
