//! Changes of a database's other records than documents: `_local` documents, `_security`,
//! `_auto_purge`, purge requests.

use super::draft::Draft;
use crate::db::auto_purge_record::AutoPurge;
use crate::db::record::NO_SECURITY;
use crate::error::{Error, Result};
use crate::store::keyspace;

impl Draft<'_> {
    /// Writes or deletes a `_local` document.
    pub fn put_local(&mut self, id: &str, record: Option<Vec<u8>>) {
        self.batch.writes.push((keyspace::local(self.number, id), record));
    }

    /// Writes the `_security` object.
    pub fn put_security(&mut self, security: &str) {
        self.writes_security = true;
        self.batch.put(keyspace::security(self.number), security.as_bytes().to_vec());
    }

    /// Changes one record of the database: passes its value to `change` and writes what `change` returns, if
    /// anything. The value is the one that this draft writes, else the stored one; the commit then expects
    /// the stored value. As [`crate::store::update`], within the commit of the draft: after a conflict, the
    /// writer makes a new draft.
    pub fn update(
        &mut self,
        key: Vec<u8>,
        change: impl FnOnce(Option<&[u8]>) -> Result<Option<Vec<u8>>>,
    ) -> Result<()> {
        if let Some((_, value)) = self.batch.writes.iter().rev().find(|(put, _)| *put == key) {
            if let Some(next) = change(value.as_deref())? {
                self.batch.put(key, next);
            }
            return Ok(());
        }
        let stored = self.store.get(&key)?;
        if let Some(next) = change(stored.as_deref())? {
            self.batch.expect(key.clone(), stored);
            self.batch.put(key, next);
        }
        Ok(())
    }

    /// Changes the `_security` object; `change` gets its JSON text and returns the new one, if it differs.
    /// Returns the text that is in force after this draft.
    pub fn change_security(&mut self, change: impl FnOnce(&str) -> Result<Option<String>>) -> Result<String> {
        let (number, mut after, mut writes) = (self.number, String::new(), false);
        self.update(keyspace::security(number), |stored| {
            let text = std::str::from_utf8(stored.unwrap_or(NO_SECURITY.as_bytes()))
                .map_err(|_| Error::Damaged(format!("_security of database number {number}")))?;
            let changed = change(text)?;
            after = changed.clone().unwrap_or_else(|| text.to_owned());
            writes = changed.is_some();
            Ok(changed.map(String::into_bytes))
        })?;
        self.writes_security |= writes;
        Ok(after)
    }

    /// Changes the stored state of `_auto_purge`.
    pub fn change_auto_purge(&mut self, change: impl FnOnce(&mut AutoPurge)) -> Result<()> {
        self.update(keyspace::auto_purge(self.number), |value| {
            let mut stored = AutoPurge::of(value)?;
            change(&mut stored);
            Ok(Some(stored.encode()))
        })
    }

    /// Removes a purge request and its uuid.
    pub fn forget_purge(&mut self, sequence: u64, uuid: &str) {
        self.batch.delete(keyspace::purge(self.number, sequence));
        self.batch.delete(keyspace::purge_uuid(self.number, uuid));
        self.info.forgotten_purges = self.info.forgotten_purges.max(sequence);
    }
}
