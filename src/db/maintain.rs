//! Purge, compaction, limits, `_security`, and the removal of deleted databases' entries.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::draft::{Draft, references_of};
use super::record::{BodyRecord, PurgeRecord};
use super::writer::{Frees, Work};
use super::{Database, Databases};
use crate::blocking::blocking;
use crate::error::{Error, Result};
use crate::rev::Revision;
use crate::store::{Batch, Direction, Durability, PageLimit, Store, StoreError, keyspace};

/// Documents per step of a compaction.
const COMPACTED_AT_ONCE: usize = 200;
/// Entries that one step of a removal deletes at most.
const REMOVED_AT_ONCE: usize = 2000;
/// Deleted databases that one removal step considers. The step removes entries of the first one that does not
/// fail.
const DOOMED_AT_ONCE: usize = 1000;

/// A document id with revisions: those to purge, or those that a purge has removed.
pub type Purged = (String, Vec<Revision>);

/// A running compaction. The database counts as compacting until this is dropped.
pub struct Compaction(Arc<Database>);

impl Compaction {
    /// Removes the bodies of old revisions, a few documents per step, between writes. Calls `progress` with
    /// the last compacted sequence and the sequence at which the compaction ends.
    pub async fn run(self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        self.0.compact_all(progress).await
    }
}

impl Drop for Compaction {
    fn drop(&mut self) {
        self.0.compacting.store(false, Ordering::Release);
    }
}

/// A change of a database's settings.
enum Setting {
    RevsLimit(u32),
    PurgedInfosLimit(u32),
    Security(Arc<Database>, String),
    AutoPurge(String),
    AutoPurgeNotes { done: u64, notes: Vec<(u64, u64)> },
}

impl Database {
    /// Implements `_purge`: removes leaves as if they had never existed. Revisions in `wanted` that are not
    /// leaves are ignored.
    pub async fn purge(self: &Arc<Self>, wanted: Vec<Purged>) -> Result<Vec<Purged>> {
        let wanted = wanted.into_iter().map(|(id, revisions)| (self.clock.uuid(), id, revisions)).collect();
        self.submit(|reply| Purge { wanted, removed: Vec::new(), reply }).await
    }

    /// Purge requests after the purge sequence `after`, oldest first: (purge sequence, request).
    pub fn purges(&self, after: u64, limit: usize) -> Result<Vec<(u64, PurgeRecord)>> {
        let (_, high) = keyspace::kind(self.number, keyspace::Kind::Purge);
        let low = std::ops::Bound::Excluded(keyspace::purge(self.number, after));
        let page = self.store.scan(&(low, high), Direction::Forward, PageLimit::entries(limit))?;
        page.iter().map(|(key, value)| Ok((keyspace::sequence_of(key), PurgeRecord::decode(value)?))).collect()
    }

    /// Sets `_revs_limit`, to at least 1.
    pub async fn set_revs_limit(self: &Arc<Self>, limit: u32) -> Result<()> {
        self.submit(|reply| Set { setting: Setting::RevsLimit(limit), reply }).await
    }

    /// Sets `_purged_infos_limit`, to at least 1.
    pub async fn set_purged_infos_limit(self: &Arc<Self>, limit: u32) -> Result<()> {
        self.submit(|reply| Set { setting: Setting::PurgedInfosLimit(limit), reply }).await
    }

    /// Stores the `_security` object, given as JSON text that the caller has validated.
    pub async fn put_security(self: &Arc<Self>, security: String) -> Result<()> {
        let database = self.clone();
        self.submit(|reply| Set { setting: Setting::Security(database, security), reply }).await
    }

    /// Stores the `_auto_purge` object, given as JSON text that the caller has validated.
    pub async fn put_auto_purge(self: &Arc<Self>, properties: String) -> Result<()> {
        self.submit(|reply| Set { setting: Setting::AutoPurge(properties), reply }).await
    }

    pub(super) async fn put_auto_purge_notes(self: &Arc<Self>, done: u64, notes: Vec<(u64, u64)>) -> Result<()> {
        self.submit(|reply| Set { setting: Setting::AutoPurgeNotes { done, notes }, reply }).await
    }

    /// Marks the database as compacting. `None` if a compaction is running already. [`Compaction::run`] does
    /// the work.
    pub fn begin_compaction(self: &Arc<Self>) -> Option<Compaction> {
        let busy = self.compacting.swap(true, Ordering::AcqRel);
        (!busy).then(|| Compaction(self.clone()))
    }

    /// Runs a compaction to its end, unless one is running already.
    pub async fn compact(self: &Arc<Self>, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        match self.begin_compaction() {
            Some(compaction) => compaction.run(progress).await,
            None => Ok(()),
        }
    }

    async fn compact_all(self: &Arc<Self>, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        let goal = self.info().sequence;
        loop {
            let done = self.info().compacted;
            progress(done.min(goal), goal);
            if done >= goal {
                break;
            }
            let database = self.clone();
            let (ids, upto) = blocking(move || database.next_to_compact(done, goal)).await?;
            self.submit(|reply| Compact { ids, upto, reply }).await?;
        }
        self.forget_purges().await
    }

    /// The next documents that changed after `done`, and the sequence up to which they cover the changes
    /// order. A damaged row of the changes order is skipped, and its document keeps its old bodies.
    fn next_to_compact(&self, done: u64, goal: u64) -> Result<(Vec<String>, u64)> {
        let page = match self.changes(done, Direction::Forward, PageLimit::entries(COMPACTED_AT_ONCE)) {
            Err(Error::Damaged(what)) => {
                tracing::warn!(database = %self.name, "compaction skips a damaged row: {what}");
                let (_, high) = keyspace::kind(self.number, keyspace::Kind::Sequence);
                let low = std::ops::Bound::Excluded(keyspace::sequence(self.number, done));
                let damaged = self.store.keys(&(low, high), 1)?;
                return Ok((Vec::new(), damaged.first().map_or(goal, |key| keyspace::sequence_of(key))));
            }
            page => page?,
        };
        let last = page.rows.last().map_or(0, |(sequence, _)| *sequence);
        let upto = if page.done || last == 0 { goal.max(last) } else { last };
        Ok((page.rows.into_iter().map(|(_, row)| row.id).collect(), upto))
    }

    /// Blocks the writer until the returned [`Hold`] is dropped: meanwhile the database does not change, and
    /// writes wait. Used for the last pass of a backup. The holder must not wait without a time
    /// limit for anything outside this process.
    pub async fn hold(self: &Arc<Self>) -> Result<Hold> {
        let (held, release) = std::sync::mpsc::channel();
        self.submit(|reply| Held { reply: Some((reply, Hold(held))), release }).await
    }

    /// Removes the oldest purge requests, beyond `_purged_infos_limit`.
    async fn forget_purges(self: &Arc<Self>) -> Result<()> {
        loop {
            let info = self.info();
            let kept = info.purge_sequence.saturating_sub(u64::from(info.purged_infos_limit));
            if info.forgotten_purges >= kept {
                return Ok(());
            }
            let after = info.forgotten_purges;
            let database = self.clone();
            let old = blocking(move || database.purges(after, 500)).await?;
            let old: Vec<(u64, String)> = old
                .into_iter()
                .filter(|(sequence, _)| *sequence <= kept)
                .map(|(sequence, record)| (sequence, record.uuid))
                .collect();
            if old.is_empty() {
                return Ok(());
            }
            self.submit(|reply| Forget { old, reply }).await?;
        }
    }
}

/// Blocks a database's writer until it is dropped.
pub struct Hold(#[allow(dead_code)] std::sync::mpsc::Sender<()>);

struct Held {
    reply: Option<(oneshot::Sender<Result<Hold>>, Hold)>,
    release: std::sync::mpsc::Receiver<()>,
}

impl Work for Held {
    fn ids(&self) -> Vec<String> {
        Vec::new()
    }

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&mut self, _: &mut Draft) -> Result<()> {
        if let Some((reply, hold)) = self.reply.take()
            && reply.send(Ok(hold)).is_ok()
        {
            // Ends when the hold is dropped.
            let _ = self.release.recv();
        }
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        if let (Some((reply, _)), Err(error)) = (self.reply, committed) {
            let _ = reply.send(Err(error));
        }
    }
}

struct Purge {
    wanted: Vec<(String, String, Vec<Revision>)>,
    removed: Vec<Purged>,
    reply: oneshot::Sender<Result<Vec<Purged>>>,
}

impl Work for Purge {
    fn ids(&self) -> Vec<String> {
        self.wanted.iter().map(|(_, id, _)| id.clone()).collect()
    }

    fn bytes(&self) -> usize {
        self.wanted.len() * 200
    }

    fn apply(&mut self, draft: &mut Draft) -> Result<()> {
        self.removed.clear();
        for (uuid, id, revisions) in &self.wanted {
            self.removed.push((id.clone(), draft.purge(uuid, id, revisions)?));
        }
        Ok(())
    }

    fn frees(&self) -> Frees {
        Frees::WhenSmaller
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let Purge { removed, reply, .. } = *self;
        let _ = reply.send(committed.map(|()| removed));
    }
}

struct Set {
    setting: Setting,
    reply: oneshot::Sender<Result<()>>,
}

impl Work for Set {
    fn ids(&self) -> Vec<String> {
        Vec::new()
    }

    fn bytes(&self) -> usize {
        100
    }

    fn apply(&mut self, draft: &mut Draft) -> Result<()> {
        match &self.setting {
            Setting::RevsLimit(limit) => draft.info.revs_limit = (*limit).max(1),
            Setting::PurgedInfosLimit(limit) => draft.info.purged_infos_limit = (*limit).max(1),
            Setting::Security(_, security) => draft.put_security(security),
            Setting::AutoPurge(properties) => {
                draft.change_auto_purge(|stored| stored.properties.clone_from(properties))?;
            }
            Setting::AutoPurgeNotes { done, notes } => draft.change_auto_purge(|stored| {
                stored.done = *done;
                stored.notes.clone_from(notes);
            })?,
        }
        Ok(())
    }

    /// Limits, and the notes of auto purge, may be written on a full disk: they take only a few bytes.
    fn frees(&self) -> Frees {
        match &self.setting {
            Setting::RevsLimit(_) | Setting::PurgedInfosLimit(_) | Setting::AutoPurgeNotes { .. } => Frees::Always,
            Setting::AutoPurge(properties) if properties.len() <= 1000 => Frees::Always,
            Setting::AutoPurge(_) | Setting::Security(..) => Frees::Never,
        }
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        // Set by the writer, not by the callers, so that the value in memory is the one that was written
        // last.
        if let (Ok(()), Setting::Security(database, security)) = (&committed, &self.setting) {
            database.set_security(security);
        }
        let _ = self.reply.send(committed);
    }
}

struct Compact {
    ids: Vec<String>,
    upto: u64,
    reply: oneshot::Sender<Result<()>>,
}

impl Work for Compact {
    fn ids(&self) -> Vec<String> {
        self.ids.clone()
    }

    fn bytes(&self) -> usize {
        self.ids.len() * 1000
    }

    fn apply(&mut self, draft: &mut Draft) -> Result<()> {
        for id in &self.ids {
            draft.compact(id)?;
        }
        draft.info.compacted = draft.info.compacted.max(self.upto);
        Ok(())
    }

    fn frees(&self) -> Frees {
        Frees::Always
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let _ = self.reply.send(committed);
    }
}

struct Forget {
    old: Vec<(u64, String)>,
    reply: oneshot::Sender<Result<()>>,
}

impl Work for Forget {
    fn ids(&self) -> Vec<String> {
        Vec::new()
    }

    fn bytes(&self) -> usize {
        self.old.len() * 50
    }

    fn apply(&mut self, draft: &mut Draft) -> Result<()> {
        for (sequence, uuid) in &self.old {
            draft.forget_purge(*sequence, uuid);
        }
        Ok(())
    }

    fn frees(&self) -> Frees {
        Frees::Always
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let _ = self.reply.send(committed);
    }
}

impl Databases {
    /// Removes entries of deleted databases, a bounded number per call. Returns true if there may be more to
    /// remove. Damaged entries are removed without being read. An error in one database does not stop the
    /// removal of the others.
    pub fn remove_some(&self) -> Result<bool> {
        let store = &**self.store();
        let doomed = store.keys(&keyspace::all_doomed(), DOOMED_AT_ONCE)?;
        let mut failed = None;
        for key in doomed {
            match remove_of(store, key) {
                Ok(()) => return Ok(true),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(false), Err)
    }
}

/// Removes some entries of the deleted database that `doomed_key` names. When none are left, removes that
/// key.
fn remove_of(store: &dyn Store, doomed_key: Vec<u8>) -> Result<()> {
    let number = doomed_key
        .get(1..)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_be_bytes)
        .ok_or_else(|| Error::Damaged("the number of a deleted database".into()))?;
    let mut batch = Batch { durability: Durability::Relaxed, frees: true, ..Batch::new() };
    let body_prefix = keyspace::kind_prefix(number, keyspace::Kind::Body);
    for range in [keyspace::database(number), keyspace::indexes(number)] {
        match store.scan(&range, Direction::Forward, PageLimit::entries(REMOVED_AT_ONCE)) {
            Ok(page) => {
                for (key, value) in page {
                    if key.starts_with(&body_prefix) {
                        forget_blobs(store, &mut batch, number, &key, &value)?;
                    }
                    batch.delete(key);
                }
            }
            // The first entry of the page is damaged: remove that entry alone, without reading its value.
            Err(StoreError::Damaged(what)) => {
                tracing::warn!("removing a damaged entry of a deleted database: {what}");
                for key in store.keys(&range, 1)? {
                    if key.starts_with(&body_prefix) {
                        forget_blobs(store, &mut batch, number, &key, &[])?;
                    }
                    batch.delete(key);
                }
            }
            Err(error) => return Err(error.into()),
        }
        if !batch.writes.is_empty() {
            return Ok(store.commit(batch)?);
        }
    }
    batch.delete(doomed_key);
    Ok(store.commit(batch)?)
}

/// Deletes a body's blob references.
fn forget_blobs(store: &dyn Store, batch: &mut Batch, number: u64, key: &[u8], value: &[u8]) -> Result<()> {
    let rest = keyspace::rest_of(key);
    let (Some(sequence), Some(index)) = (
        rest.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes),
        rest.get(8..12).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes),
    ) else {
        return Ok(());
    };
    match BodyRecord::decode("", value.to_vec()) {
        Ok(record) => {
            for attachment in record.attachments {
                batch.delete(keyspace::blob_reference(&attachment.blob, number, sequence, index));
            }
        }
        Err(_) => references_of(store, number, sequence, index)?.into_iter().for_each(|key| batch.delete(key)),
    }
    Ok(())
}
