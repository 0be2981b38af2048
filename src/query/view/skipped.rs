//! The documents that an index skipped, because their map functions exceeded the time or memory limit.
//!
//! The list is stored with the index, so that `_info` shows it after a restart. A document that is mapped
//! later, or removed, leaves the list. The list is bounded; further documents are only counted.

use serde::{Deserialize, Serialize};

use super::index::Index;
use super::layout::FORMAT;
use crate::db::codec::{Reader, Writer};
use crate::error::{Error, Result};
use crate::store::Batch;

/// Maximum number of documents in the list; the oldest ones are dropped.
const KEPT: usize = 200;
/// Reasons and ids are truncated to this many bytes.
const TEXT: usize = 300;

/// The skipped documents of an index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Number of skipped documents, including those that are not in `last`.
    pub count: u64,
    /// The latest skipped documents, oldest first.
    pub last: Vec<SkippedDocument>,
}

/// A skipped document and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedDocument {
    pub id: String,
    pub reason: String,
}

impl Skipped {
    /// Reads the list of an index. Blocks on the store.
    pub(super) fn read(index: &Index) -> Result<Skipped> {
        let stored = index.get_many(&[index.layout.skipped()])?.pop().flatten();
        let Some(stored) = stored else { return Ok(Skipped::default()) };
        Skipped::decode(&stored).ok_or_else(|| Error::Damaged("the skipped documents of a view index".into()))
    }

    fn decode(value: &[u8]) -> Option<Skipped> {
        let mut reader = Reader::version(value, FORMAT)?;
        let count = reader.number()?;
        let mut last = Vec::new();
        let text = |reader: &mut Reader| String::from_utf8(reader.bytes()?.to_vec()).ok();
        while !reader.0.is_empty() {
            last.push(SkippedDocument { id: text(&mut reader)?, reason: text(&mut reader)? });
        }
        Some(Skipped { count, last })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::version(FORMAT);
        out.number(self.count);
        for document in &self.last {
            out.text(&document.id);
            out.text(&document.reason);
        }
        out.0
    }

    /// Removes a document that was mapped or deleted.
    fn remove(&mut self, id: &str) {
        let before = self.last.len();
        self.last.retain(|document| document.id != id);
        self.count = self.count.saturating_sub((before - self.last.len()) as u64);
    }

    fn add(&mut self, id: &str, reason: &str) {
        let cut = |text: &str| text[..text.floor_char_boundary(TEXT)].to_owned();
        self.last.push(SkippedDocument { id: cut(id), reason: cut(reason) });
        self.count += 1;
        self.last.drain(..self.last.len().saturating_sub(KEPT));
    }

    /// Adds the changes of the list to `batch`. `step` has the documents of a step of an update, and the
    /// reason if a document is skipped. `look_up`: whether the list may contain these documents already.
    pub(super) fn note<'a>(
        index: &Index,
        batch: &mut Batch,
        step: impl Iterator<Item = (&'a str, Option<&'a str>)> + Clone,
        look_up: bool,
    ) -> Result<()> {
        if !look_up && step.clone().all(|(_, reason)| reason.is_none()) {
            return Ok(());
        }
        let before = Skipped::read(index)?;
        let mut now = before.clone();
        for (id, reason) in step {
            if !now.last.is_empty() {
                now.remove(&id[..id.floor_char_boundary(TEXT)]);
            }
            if let Some(reason) = reason {
                let (database, design) = (index.database.name(), index.definition.id.as_str());
                tracing::warn!(target: "settee::script", database, design, id, "a view skips a document: {reason}");
                now.add(id, reason);
            }
        }
        if now == before {
            return Ok(());
        }
        match now.count {
            0 => batch.delete(index.layout.skipped()),
            _ => batch.put(index.layout.skipped(), now.encode()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_bounded_and_round_trips() {
        let mut skipped = Skipped::default();
        (0..300).for_each(|n| skipped.add(&format!("é{n}"), &"x".repeat(1000)));
        assert_eq!((skipped.count, skipped.last.len()), (300, KEPT));
        assert_eq!(skipped.last[0].id, "é100");
        assert_eq!(skipped.last[0].reason.len(), TEXT);
        assert_eq!(Skipped::decode(&skipped.encode()), Some(skipped.clone()));
        skipped.remove("é299");
        skipped.remove("é1");
        assert_eq!((skipped.count, skipped.last.len()), (299, KEPT - 1));
    }
}
