//! Checks a whole folder: its databases, and the entries that belong to no database.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::state::{Check, Checked, PAGE};
use crate::db::codec::decode_u64;
use crate::db::record::NameRecord;
use crate::error::{Error, Result};
use crate::maintain::progress::Hear;
use crate::maintain::sweep;
use crate::maintain::walk::Walk;
use crate::store::Store;
use crate::store::blob::blobs::Blobs;
use crate::store::keyspace;

/// Checks the whole folder. Returns damage in [`Checked`]; an `Err` means that an I/O error ended the check
/// itself.
pub fn check(store: &dyn Store, blobs: &dyn Blobs, hear: Hear) -> Result<Checked> {
    let mut check = Check::new(store, blobs, hear);
    check.everything()?;
    Ok(check.found)
}

impl Check<'_> {
    fn everything(&mut self) -> Result<()> {
        if let Err(error) = self.store.complete() {
            self.found.problem(format!("the store is incomplete: {}", Error::from(error)));
        }
        let numbers = self.numbers()?;
        for (number, name) in &numbers {
            self.database(*number, name)?;
            self.found.databases += 1;
        }
        self.orphans(&numbers)?;
        self.references(&numbers)?;
        self.loose_blobs()?;
        self.server_wide()
    }

    /// The names of all databases by their numbers.
    pub(super) fn numbers(&mut self) -> Result<BTreeMap<u64, String>> {
        let last_number = match self.value(keyspace::LAST_NUMBER)? {
            Some(value) => decode_u64(&value).unwrap_or_else(|| {
                self.found.problem("the last database number cannot be read".into());
                u64::MAX
            }),
            None => 0,
        };
        let mut numbers = BTreeMap::new();
        let mut names = Walk::over(keyspace::names(None, None));
        loop {
            let page = names.next(self.store)?;
            if page.is_empty() {
                break;
            }
            for (key, value) in page {
                let name = keyspace::name_of(&key).to_owned();
                match value.and_then(|value| NameRecord::decode(&value).map_err(|error| error.to_string())) {
                    Err(error) => self.found.problem(error),
                    Ok(record) if record.number > last_number => {
                        self.found.problem(format!("{name}: its number {} was never assigned", record.number));
                    }
                    Ok(record) => {
                        if let Some(other) = numbers.insert(record.number, name.clone()) {
                            self.found.problem(format!("{name} and {other} have the same number {}", record.number));
                        }
                    }
                }
            }
        }
        Ok(numbers)
    }

    /// Finds entries whose database number belongs to no database name.
    pub(super) fn orphans(&mut self, numbers: &BTreeMap<u64, String>) -> Result<()> {
        let mut next = 0;
        loop {
            let (low, _) = keyspace::database(next);
            let (_, high) = keyspace::database(u64::MAX);
            let Some(key) = self.store.keys(&(low, high), 1)?.pop() else { return Ok(()) };
            let Some(number) = key.get(1..9).and_then(decode_u64) else {
                return Ok(());
            };
            if !numbers.contains_key(&number) {
                if self.value(&keyspace::doomed(number))?.is_some() {
                    self.found.notes.push(format!("deleted database number {number} is still to be removed"));
                } else {
                    self.found.problem(format!("entries of database number {number}, which has no name"));
                }
            }
            match number.checked_add(1) {
                Some(following) => next = following,
                None => return Ok(()),
            }
        }
    }

    /// Checks that every blob reference belongs to a body of an existing database. The walk over the bodies
    /// has found every reference that bodies need, so comparing the counts is enough.
    pub(super) fn references(&mut self, numbers: &BTreeMap<u64, String>) -> Result<()> {
        let mut range = keyspace::all_blob_references();
        let mut living = 0;
        let mut doomed = 0;
        loop {
            let page = self.store.keys(&range, 4 * PAGE)?;
            let Some(last) = page.last() else { break };
            range.0 = Bound::Excluded(last.clone());
            for key in page {
                let number = key.get(33..41).and_then(decode_u64);
                match number {
                    Some(number) if numbers.contains_key(&number) => living += 1,
                    _ => doomed += 1,
                }
            }
        }
        if living != self.references {
            let needed = self.references;
            self.found.problem(format!("{living} references to attachments, but the bodies need {needed}"));
        }
        if doomed > 0 {
            self.found.notes.push(format!("{doomed} references to attachments of deleted databases"));
        }
        Ok(())
    }

    pub(super) fn loose_blobs(&mut self) -> Result<()> {
        let mut after = None;
        let mut loose = 0;
        loop {
            let page = self.blobs.list(after.as_ref(), PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(*last);
            for id in &page {
                loose += u64::from(!self.seen.contains(id) && !sweep::is_referenced(self.store, id)?);
            }
        }
        if loose > 0 {
            self.found.notes.push(format!("{loose} unreferenced attachments are still to be removed"));
        }
        Ok(())
    }

    /// Checks the checksums of settings and of other server-wide entries.
    pub(super) fn server_wide(&mut self) -> Result<()> {
        let mut walk = Walk::over((Bound::Unbounded, keyspace::database(0).0));
        loop {
            let page = walk.next(self.store)?;
            if page.is_empty() {
                return Ok(());
            }
            for (_, value) in page {
                if let Err(error) = value {
                    self.found.problem(error);
                }
            }
        }
    }
}
