//! Copies a whole folder: its settings, and its databases by name and number.

use std::collections::{BTreeMap, HashMap};

use super::state::{Salvage, Salvaged};
use crate::clock::Clock;
use crate::db::record::NameRecord;
use crate::error::Result;
use crate::maintain::bulk_writes::BulkWrites;
use crate::maintain::progress::Hear;
use crate::maintain::walk::Walk;
use crate::store::Store;
use crate::store::blob::blobs::Blobs;
use crate::store::embedded::mark::Noted;
use crate::store::embedded::salvage::{Source, database};
use crate::store::keyspace::{self, Kind};

/// Copies what `from` holds into `store` and `blobs`, which hold no databases yet.
///
/// # Errors
/// Errors of the new folder. Damage to the old folder is reported in [`Salvaged`].
pub fn salvage(from: &Source, store: &dyn Store, blobs: &dyn Blobs, clock: &Clock, hear: Hear) -> Result<Salvaged> {
    let mut salvage = Salvage {
        from,
        store,
        blobs,
        clock,
        hear,
        number: 0,
        taken: HashMap::new(),
        writes: BulkWrites::new(store),
        found: Salvaged::default(),
    };
    from.lost.iter().for_each(|lost| salvage.found.lost(lost.clone()));
    salvage.everything()?;
    Ok(salvage.found)
}

impl Salvage<'_> {
    fn everything(&mut self) -> Result<()> {
        for (what, range) in [("setting", keyspace::configs()), ("server state", keyspace::servers())] {
            self.each(range, &mut |salvage, (key, value)| match value {
                Ok(value) => salvage.writes.put(key, value),
                Err(error) => {
                    salvage.found.lost(format!("a {what}: {error}"));
                    Ok(())
                }
            })?;
        }
        for (old, (name, record)) in self.names()? {
            self.database(old, name, record)?;
        }
        self.writes.put(keyspace::LAST_NUMBER.to_vec(), self.number.to_be_bytes().to_vec())?;
        self.writes.finish()?;
        Ok(())
    }

    /// The databases of the damaged folder, by number: those with a readable name record, and those that only
    /// the mark names, if any of their documents is readable.
    fn names(&mut self) -> Result<BTreeMap<u64, (String, NameRecord)>> {
        let mut names: BTreeMap<u64, (String, NameRecord)> = BTreeMap::new();
        let mut nameless = Vec::new();
        self.each(keyspace::names(None, None), &mut |salvage, (key, value)| {
            let name = keyspace::name_of(&key).to_owned();
            match value.and_then(|value| NameRecord::decode(&value).map_err(|error| error.to_string())) {
                Ok(record) => drop(names.insert(record.number, (name, record))),
                Err(error) => {
                    nameless.push(name);
                    salvage.found.lost(format!("a database name: {error}"));
                }
            }
            Ok(())
        })?;
        let from = self.from;
        for (&number, Noted { name, sequence }) in &from.noted {
            let doomed = matches!(from.store.get(&keyspace::doomed(number)), Ok(Some(_)));
            if names.contains_key(&number) || doomed {
                continue;
            }
            let mut rows = Walk::over(keyspace::kind(number, Kind::Document));
            let left = rows.next(from.store.as_ref())?.iter().any(|(_, value)| value.is_ok());
            let known = database(number, name);
            let name = match name.is_empty() {
                true => format!("salvaged-{number}"),
                false => name.clone(),
            };
            if !left {
                self.found.lost(format!("database {known}: all of it, up to sequence {sequence}"));
            } else if !names.values().any(|(taken, _)| *taken == name) {
                let (partitioned, q, n) = (false, 1, 1);
                let created = self.clock.since_epoch().as_millis() as u64;
                let record = NameRecord { number, instance: [0; 16], created, partitioned, q, n };
                self.found.lost(format!("database {known}: its name record, which said whether it was partitioned"));
                names.insert(number, (name, record));
            }
        }
        for name in nameless {
            if !names.values().any(|(known, _)| *known == name) {
                self.found.lost(format!("database {name}: its number, and therefore all its documents"));
            }
        }
        Ok(names)
    }
}
