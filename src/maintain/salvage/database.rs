//! Copies one database: its documents, `_local` documents, purge requests, `_security` and `_auto_purge`.

use super::state::{Salvage, Target};
use crate::db::AutoPurge;
use crate::db::codec::decode_u64;
use crate::db::record::{Info, LocalRecord, NO_SECURITY, NameRecord, PurgeRecord};
use crate::error::Result;
use crate::store::embedded::salvage::last_sequence;
use crate::store::keyspace::{self, Kind};

impl Salvage<'_> {
    pub(super) fn database(&mut self, old: u64, name: String, record: NameRecord) -> Result<()> {
        self.number += 1;
        let number = self.number;
        let stored = self.value(&keyspace::info(old)).and_then(|value| Info::decode(&value?).ok());
        if stored.is_none() {
            self.found.lost(format!("{name}: its counters (recounted) and its limits"));
        }
        let before = stored.unwrap_or_default();
        let noted = self.from.noted.get(&old).map(|noted| noted.sequence);
        if let Some(noted) = noted
            && let Some(has) = last_sequence(self.from.store.as_ref(), old).map(|last| last.max(before.sequence))
            && has < noted
        {
            self.found.lost(format!("{name}: sequences {} to {noted}", has + 1));
        }
        let info = Info {
            sequence: before.sequence.max(noted.unwrap_or(0)),
            documents: 0,
            deleted: 0,
            external: 0,
            records: 0,
            old: 0,
            ..before
        }
        .without_conflict_index();
        let mut target = Target { name, old, number, info };
        self.documents(&mut target)?;
        self.rows(&mut target)?;
        self.beside(&mut target)?;
        let record = NameRecord { number, instance: self.clock.random_16(), ..record };
        self.writes.put(keyspace::info(number), target.info.encode())?;
        self.writes.put(keyspace::name(&target.name), record.encode())?;
        self.found.databases += 1;
        Ok(())
    }

    /// Copies `_local` documents, purge requests, `_security` and `_auto_purge`.
    fn beside(&mut self, target: &mut Target) -> Result<()> {
        let (old, number) = (target.old, target.number);
        self.each(keyspace::kind(old, Kind::Local), &mut |salvage, (key, value)| {
            let id = String::from_utf8_lossy(keyspace::rest_of(&key)).into_owned();
            let decoded = value.and_then(|value| match LocalRecord::decode(&id, &value) {
                Ok(_) => Ok(value),
                Err(error) => Err(error.to_string()),
            });
            match decoded {
                Ok(value) => salvage.writes.put(keyspace::local(number, &id), value),
                Err(error) => {
                    salvage.found.lost(format!("{}: a local document: {error}", target.name));
                    Ok(())
                }
            }
        })?;
        self.each(keyspace::kind(old, Kind::Purge), &mut |salvage, (key, value)| {
            let sequence = decode_u64(keyspace::rest_of(&key));
            let decoded = value.ok().and_then(|value| Some((PurgeRecord::decode(&value).ok()?, value)));
            match (sequence, decoded) {
                (Some(sequence), Some((record, value))) if sequence > target.info.forgotten_purges => {
                    target.info.purge_sequence = target.info.purge_sequence.max(sequence);
                    salvage.writes.put(keyspace::purge_uuid(number, &record.uuid), sequence.to_be_bytes().to_vec())?;
                    salvage.writes.put(keyspace::purge(number, sequence), value)
                }
                _ => {
                    salvage.found.lost(format!("{}: a purge request", target.name));
                    Ok(())
                }
            }
        })?;
        let security =
            self.value(&keyspace::security(old)).flatten().filter(|value| std::str::from_utf8(value).is_ok());
        if security.is_none() {
            self.found.lost(format!("{}: its _security; only admins have access until it is set again", target.name));
        }
        self.writes.put(keyspace::security(number), security.unwrap_or_else(|| NO_SECURITY.as_bytes().to_vec()))?;
        if let Some(Some(value)) = self.value(&keyspace::auto_purge(old))
            && AutoPurge::of(Some(&value)).is_ok()
        {
            self.writes.put(keyspace::auto_purge(number), value)?;
        }
        Ok(())
    }
}
