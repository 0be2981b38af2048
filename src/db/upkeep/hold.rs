//! Holding all writes of a database while a backup copies it.
//!
//! On an embedded store, the hold blocks the writer. On a shared store, other nodes write, too: the hold is stored
//! in the counters, which every writer reads. A commit of a writer expects counters without the hold, so it
//! conflicts; the writer then reads the hold and waits. The hold ends by itself after [`LONGEST`], in case its node
//! dies. [`Hold::has_lasted`] does not depend on clocks: it checks that the counters have not changed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::blocking::blocking;
use crate::db::Database;
use crate::db::commit::draft::Draft;
use crate::db::commit::queue::Work;
use crate::db::record::Info;
use crate::error::{Error, Result};
use crate::store::{self, Batch, StoreError, keyspace};

/// How long writers on a shared store wait at most.
const LONGEST: Duration = Duration::from_secs(10);

/// Blocks the writers of a database until it is dropped.
pub struct Hold(Held);

enum Held {
    Writer(#[allow(dead_code, reason = "dropping it ends the hold")] std::sync::mpsc::Sender<()>),
    /// The database, and its counters with the hold.
    Counters(Arc<Database>, Info),
}

struct Blocks {
    reply: Option<(oneshot::Sender<Result<Hold>>, Hold)>,
    release: std::sync::mpsc::Receiver<()>,
}

impl Work for Blocks {
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

impl Database {
    /// Blocks the writers until the returned [`Hold`] is dropped: meanwhile the database does not change, and
    /// writes wait. Used for the last pass of a backup. The holder must not wait without a time limit for
    /// anything outside this process.
    pub async fn hold(self: &Arc<Self>) -> Result<Hold> {
        if self.store.is_shared() {
            let database = self.clone();
            return blocking(move || database.hold_counters()).await;
        }
        let (held, release) = std::sync::mpsc::channel();
        self.submit(|reply| Blocks { reply: Some((reply, Hold(Held::Writer(held)))), release }).await
    }

    fn hold_counters(self: Arc<Self>) -> Result<Hold> {
        let until = (self.clock.since_epoch() + LONGEST).as_secs();
        let held = self.replace_counters(|info| info.held_until = until)?;
        Ok(Hold(Held::Counters(self, held)))
    }

    /// Commits changed counters, without the writer, which may be waiting. Returns them.
    fn replace_counters(&self, change: impl Fn(&mut Info)) -> Result<Info> {
        for attempt in 1.. {
            // Read before the counters, which are therefore of this epoch or a later one.
            let epoch = self.store.epoch()?;
            let before = self.info_now()?;
            let mut after = before.clone();
            after.commits += 1;
            // Read again after the counters: a failover in between has begun a new history.
            after.histories.commit(self.store.epoch()?, before.sequence);
            change(&mut after);
            let mut batch = Batch { frees: true, ..Batch::new() };
            batch.expect(keyspace::info(self.number), Some(before.encode()));
            batch.put(keyspace::info(self.number), after.encode());
            match self.store.commit(batch) {
                Ok(()) => {
                    self.committed(after.clone(), after.sequence, epoch);
                    return Ok(after);
                }
                Err(StoreError::Conflict) => store::pause_after_conflict(&*self.store, attempt),
                Err(error) => return Err(error.into()),
            }
        }
        unreachable!("the loop ends with a result")
    }
}

impl Hold {
    /// Whether no writer has written since the hold began. Blocks on the store.
    ///
    /// # Errors
    /// [`Error::NoDatabase`] if the database was deleted, and those of the store.
    pub fn has_lasted(&self) -> Result<bool> {
        match &self.0 {
            Held::Writer(_) => Ok(true),
            Held::Counters(database, held) => {
                let stored = database.store.get(&keyspace::info(database.number))?.ok_or(Error::NoDatabase)?;
                Ok(stored == held.encode())
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Held::Counters(database, held) = &self.0 {
            let until = held.held_until;
            let ended = database.replace_counters(|info| {
                // Another backup may hold the database by now.
                if info.held_until == until {
                    info.held_until = 0;
                }
            });
            if let Err(error) = ended
                && error != Error::NoDatabase
            {
                tracing::warn!(database = database.name(), %error, "writers wait until the hold of a backup ends");
            }
        }
    }
}
