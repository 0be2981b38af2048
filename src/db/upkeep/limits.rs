//! `_revs_limit`, `_purged_infos_limit`, `_security` and the settings of automatic purging.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::db::Database;
use crate::db::commit::draft::Draft;
use crate::db::commit::queue::{Frees, Work};
use crate::error::Result;

/// A change of a database's settings.
enum Setting {
    RevsLimit(u32),
    PurgedInfosLimit(u32),
    Security(Arc<Database>, String),
    AutoPurge(String),
    AutoPurgeNotes { done: u64, notes: Vec<(u64, u64)> },
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
            database.security_written(security);
        }
        let _ = self.reply.send(committed);
    }
}

impl Database {
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

    pub(crate) async fn put_auto_purge_notes(self: &Arc<Self>, done: u64, notes: Vec<(u64, u64)>) -> Result<()> {
        self.submit(|reply| Set { setting: Setting::AutoPurgeNotes { done, notes }, reply }).await
    }
}
