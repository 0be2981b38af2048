//! Maps changed documents: reads their bodies, and runs the map functions or evaluates the Mango indexes.

use serde_json::Value;

use super::index::Index;
use crate::db::read::render;
use crate::db::record::{BodyRecord, LeafRow};
use crate::error::{Error, Result};
use crate::query::mango::planner;
use crate::query::script::{Mapped, Pending, Scripts, TOO_LARGE};
use crate::rev::Body;

/// A changed document: its sequence, its id, and its leaves with the winner first.
pub(super) struct Changed {
    pub sequence: u64,
    pub id: String,
    pub leaves: Vec<LeafRow>,
}

impl Changed {
    /// The winner's body, unless the document is deleted.
    pub fn body(&self) -> Option<Body> {
        self.leaves.first().filter(|leaf| !leaf.deleted).and_then(|leaf| leaf.body)
    }
}

/// A document to map: its id, its leaves with the winner first, and the winner's body.
pub(super) struct Living<'a> {
    id: &'a str,
    leaves: &'a [LeafRow],
    body: BodyRecord,
}

/// The result of mapping a document alone.
pub(super) enum Alone {
    Mapped(Mapped),
    Gone,
    /// The document exceeds the limit even alone.
    TooLarge,
}

/// Maps documents for an index.
pub(super) struct Mapper {
    pub index: Index,
    pub scripts: Scripts,
}

impl Mapper {
    /// Returns the documents to map. Sets the place of each in `places`.
    pub fn living<'a>(&self, documents: &'a [Changed], places: &mut [Option<usize>]) -> Result<Vec<Living<'a>>> {
        let wanted: Vec<(usize, &Changed, Body)> =
            documents.iter().enumerate().filter_map(|(at, change)| Some((at, change, change.body()?))).collect();
        let named: Vec<(&str, Body)> = wanted.iter().map(|(_, change, body)| (change.id.as_str(), *body)).collect();
        let mut living = Vec::with_capacity(wanted.len());
        for ((at, change, _), body) in wanted.iter().zip(self.index.database.bodies(&named)?) {
            // The body of an edit is gone if a later edit has replaced it. That edit is a later change.
            let Some(body) = body else { continue };
            places[*at] = Some(living.len());
            living.push(Living { id: &change.id, leaves: &change.leaves, body });
        }
        Ok(living)
    }

    pub fn map(&self, living: &[Living]) -> Pending<Mapped> {
        let seen = living.iter().map(|document| self.seen(document)).collect();
        self.scripts.map_batch(&self.index.definition.set, seen)
    }

    /// Maps a document of a batch that emitted too much.
    pub fn map_alone(&self, change: &Changed) -> Result<Alone> {
        let mut places = [None];
        let living = self.living(std::slice::from_ref(change), &mut places)?;
        if living.is_empty() {
            return Ok(Alone::Gone);
        }
        let mapped = match &self.index.definition.mango {
            None => self.map(&living).wait(),
            Some(indexes) => self.indexed(indexes, &living),
        };
        match mapped {
            Err(error) if is_too_large(&error) => Ok(Alone::TooLarge),
            mapped => mapped.map(Alone::Mapped),
        }
    }

    /// Returns the rows of documents in Mango indexes: a key without a value (CouchDB:
    /// `mango_native_proc:map_doc`).
    pub fn indexed(&self, indexes: &[Option<planner::Index>], documents: &[Living]) -> Result<Mapped> {
        let mut mapped = Mapped::new(indexes.len());
        for document in documents {
            let mut rows = String::from("[");
            for index in indexes {
                let reason = "a view of this design document is no definition of an index";
                let wrong = || Error::Script { word: "invalid_index".into(), reason: reason.into() };
                let index = index.as_ref().ok_or_else(wrong)?;
                let key = if index.needs_special_members() {
                    let text = self.seen(document);
                    let whole = crate::json::read(&text)
                        .map_err(|error| Error::Damaged(format!("the body of document {}: {error}", document.id)))?;
                    index.key_of(&whole)
                } else {
                    let revision = document.leaves[0].revision.to_string();
                    index.key_of_body(document.id, &revision, &document.body.json)?
                };
                if rows.len() > 1 {
                    rows.push(',');
                }
                match key {
                    Some(key) => rows.push_str(&format!("[{},null]", Value::Array(key))),
                    None => rows.push_str("[]"),
                }
            }
            rows.push(']');
            if !mapped.push(&rows) {
                return Err(Error::Script { word: "InternalError".into(), reason: TOO_LARGE.into() });
            }
        }
        Ok(mapped)
    }

    /// Returns a document as map functions see it: with its conflicts, and with its sequence if the
    /// definition asks for it.
    fn seen(&self, document: &Living) -> String {
        let leaves = document.leaves;
        let mut text = render::plain(document.id, &leaves[0].revision, false, &document.body);
        let local_seq = leaves[0].body.filter(|_| self.index.definition.local_seq).map(|body| body.sequence);
        if leaves.len() == 1 && local_seq.is_none() {
            return text;
        }
        text.pop();
        if let Some(sequence) = local_seq {
            text.push_str(&format!(",\"_local_seq\":{sequence}"));
        }
        for (member, deleted) in [("_conflicts", false), ("_deleted_conflicts", true)] {
            let others: Vec<String> = leaves[1..]
                .iter()
                .filter(|leaf| leaf.deleted == deleted)
                .map(|leaf| crate::json::quote(&leaf.revision.to_string()))
                .collect();
            if !others.is_empty() {
                text.push_str(&format!(",\"{member}\":[{}]", others.join(",")));
            }
        }
        text.push('}');
        text
    }
}

/// Whether the error means that the documents of a batch together emitted too much.
pub(super) fn is_too_large(error: &Error) -> bool {
    matches!(error, Error::Script { reason, .. } if reason == TOO_LARGE)
}
