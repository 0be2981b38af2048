//! Learns what other nodes write to a shared store: at the start of a request, from their notices, and every
//! second for everything that is watched. `db::freshness` describes the design.

mod together;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::catalog::Databases;
use super::database::Database;
use super::freshness::{Asked, Remembered, SERVER, Wanted};
use super::prefetched::At;
use super::record::Info;
use crate::blocking::blocking;
use crate::error::Result;
use crate::store::{self, keyspace};

/// The pause between two polls of the watched records. A change whose notice is lost is seen this late.
const POLL: Duration = Duration::from_secs(1);
/// Records read at once.
const PAGE: usize = 1000;

impl Databases {
    /// Calls `changed` whenever the record `key` has changed since the last read, with the new value, and with the store's
    /// epoch from before it was read. Does nothing on an embedded store.
    pub fn remember(&self, key: Vec<u8>, changed: impl Fn(Option<&[u8]>, u64) -> Result<()> + Send + Sync + 'static) {
        if self.store().is_shared() {
            let remembered = Remembered { key, seen: Default::default(), changed: Box::new(changed) };
            self.freshness.remembered.write().push(Arc::new(remembered));
        }
    }

    /// Calls `call` with the new epoch after a failover that may have lost commits.
    pub fn when_history_begins(&self, call: impl Fn(u64) -> Result<()> + Send + Sync + 'static) {
        self.freshness.on_new_history.write().push(Arc::new(call));
    }

    /// As [`Databases::catch_up_together`], for one caller, and blocks on the store.
    #[cfg(test)]
    pub fn catch_up(&self, names: &[&str]) -> Result<()> {
        if !self.store().is_shared() {
            return Ok(());
        }
        self.learn_all(names.iter().filter_map(|name| self.opened(name)).collect())
    }

    /// Learns the events of `_db_updates` that other nodes have written. Does nothing on an embedded store.
    pub fn catch_up_events(&self) -> Result<()> {
        if self.store().is_shared() { self.learn_events() } else { Ok(()) }
    }

    fn learn_all(&self, databases: Vec<Arc<Database>>) -> Result<()> {
        let question = self.question(databases, Vec::new())?;
        let mut values = Vec::with_capacity(question.keys.len());
        for some in question.keys.chunks(PAGE) {
            values.extend(self.store().get_each(some)?);
        }
        question.learn(values)?.into_iter().rev().find(Result::is_err).unwrap_or(Ok(()))
    }

    /// Learns the registered records, and the counters of `databases`. The inner errors are those of one database each.
    /// Keeps the records `wanted` for their requests; their databases must be among `databases`. Takes a thread that may block
    /// only if something has changed that must be read.
    async fn learn_each(&self, databases: Vec<Arc<Database>>, wanted: Vec<Wanted>) -> Result<Vec<Result<()>>> {
        let question = self.question(databases, wanted)?;
        let mut values = Vec::with_capacity(question.keys.len());
        for some in question.keys.chunks(PAGE) {
            values.extend(self.store().begin_get_each(some.to_vec()).await?);
        }
        match question.reads_on(&values) {
            true => blocking(move || question.learn(values)).await,
            false => question.learn(values),
        }
    }

    fn question(&self, databases: Vec<Arc<Database>>, mut wanted: Vec<Wanted>) -> Result<Question> {
        let remembered = self.freshness.remembered.read().clone();
        let asked = Asked::now(&**self.store())?;
        let mut keys: Vec<_> = remembered.iter().map(|record| record.key.clone()).collect();
        keys.extend(databases.iter().map(|database| keyspace::info(database.number)));
        // Counters and records must be of one state of the store.
        if keys.len() + wanted.len() > PAGE {
            wanted.clear();
        }
        keys.extend(wanted.iter().map(|(_, key)| key.clone()));
        Ok(Question { asked, remembered, databases, wanted, keys })
    }

    /// Follows the other nodes of a shared store: reads what their notices name at once, and everything that is
    /// watched every second. Returns at once on an embedded store; otherwise runs until the task is dropped.
    pub async fn follow_nodes(self: Arc<Self>) {
        if !self.store().is_shared() {
            return;
        }
        // Subscribe, then read.
        let heard = self.freshness.heard.clone();
        self.store().listen(Box::new(move |moved| heard.note(moved)));
        let mut is_failing = false;
        let mut polled: Option<Instant> = None;
        loop {
            let is_due = polled.is_none_or(|at| at.elapsed() >= POLL);
            let databases = self.clone();
            let looked = blocking(move || databases.look(is_due)).await;
            match &looked {
                Err(error) if !is_failing => tracing::warn!(%error, "changes of other nodes cannot be read"),
                Ok(()) if is_failing => tracing::info!("changes of other nodes are read again"),
                _ => {}
            }
            is_failing = looked.is_err();
            if is_due {
                polled = Some(Instant::now());
            }
            let left = polled.map_or(POLL, |at| POLL.saturating_sub(at.elapsed()));
            let _ = tokio::time::timeout(left, self.freshness.heard.wake.notified()).await;
        }
    }

    /// Reads the counters of the watched databases that notices name, or with `all` everything that is watched.
    fn look(&self, all: bool) -> Result<()> {
        let (told, everything) = self.freshness.heard.take();
        let all = all || everything;
        if all {
            self.check_epoch()?;
        }
        // The other databases are read when a request needs them.
        let is_wanted = |database: &Database| database.is_watched() && (all || told.contains(&database.number));
        let mut open = self.all_opened();
        open.retain(|database| !database.is_gone() && is_wanted(database));
        self.learn_all(open)?;
        if all || told.contains(&SERVER) {
            self.learn_events()?;
        }
        Ok(())
    }

    /// After a failover that may have lost commits, nothing in memory is reliable: reads everything again.
    fn check_epoch(&self) -> Result<()> {
        let now = self.store().epoch()?;
        let mut epoch = self.freshness.epoch.lock();
        if epoch.is_some_and(|before| before != now) {
            tracing::warn!("the store has begun a new history: everything that was remembered is read again");
            for record in self.freshness.remembered.read().iter() {
                *record.seen.lock() = None;
            }
            for database in self.all_opened() {
                database.refresh()?;
            }
            self.forget_events()?;
            let called = self.freshness.on_new_history.read().clone();
            called.iter().try_for_each(|call| call(now))?;
        }
        *epoch = Some(now);
        Ok(())
    }
}

/// The records that tell what other nodes have changed.
struct Question {
    asked: Asked,
    remembered: Vec<Arc<Remembered>>,
    databases: Vec<Arc<Database>>,
    wanted: Vec<Wanted>,
    /// Of the remembered records, the counters of the databases, and the wanted records.
    keys: Vec<Vec<u8>>,
}

/// The value of a key as it was read.
type Answer = store::Result<Option<Vec<u8>>>;

impl Question {
    /// Whether [`Question::learn`] reads more, or waits for another thread that does.
    fn reads_on(&self, values: &[Answer]) -> bool {
        let (records, rest) = values.split_at(self.remembered.len());
        let is_known = |(record, value): (&Arc<Remembered>, &Answer)| {
            let seen = record.seen.try_lock();
            value.is_err() || seen.zip(value.as_ref().ok()).is_some_and(|(seen, value)| *seen == *value)
        };
        let has_security = |(database, value): (&Arc<Database>, &Answer)| {
            let Ok(Some(info)) = value else { return true };
            Info::decode(info).is_ok_and(|info| database.has_security((self.asked.epoch, info.security_at)))
        };
        !self.remembered.iter().zip(records).all(is_known) || !self.databases.iter().zip(rest).all(has_security)
    }

    /// Takes over the values of the keys. The inner errors are those of one database each.
    fn learn(self, values: Vec<Answer>) -> Result<Vec<Result<()>>> {
        let Question { asked, remembered, databases, wanted, .. } = self;
        let mut values = values;
        let records = values.split_off(remembered.len() + databases.len());
        let mut values = values.into_iter().collect::<store::Result<Vec<_>>>()?;
        let infos = values.split_off(remembered.len());
        for (record, value) in remembered.iter().zip(values) {
            let mut seen = record.seen.lock();
            if *seen != value {
                (record.changed)(value.as_deref(), asked.epoch)?;
                *seen = value;
            }
        }
        let learned = databases
            .iter()
            .zip(&infos)
            .map(|(database, info)| database.learn(info.as_deref(), asked).map(drop))
            .collect();
        for ((database, key), record) in wanted.iter().zip(records) {
            let at = databases.iter().position(|one| Arc::ptr_eq(one, database));
            // What cannot be read is an error of the request that needs it.
            if let (Some(Some(info)), Ok(record)) = (at.and_then(|at| infos.get(at)), record)
                && let Ok(info) = Info::decode(info)
            {
                database.prefetched.put(&At::of(&info), key, record);
            }
        }
        Ok(learned)
    }
}
