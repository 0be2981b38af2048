//! Copies documents with their revision trees.

use std::collections::HashMap;

use super::state::{Salvage, Target};
use crate::db::Tally;
use crate::db::record::{DocumentRecord, SequenceRow};
use crate::error::Result;
use crate::maintain::progress::Progress;
use crate::rev::{Body, Revision, Tree};
use crate::store::keyspace::{self, Kind};

impl Salvage<'_> {
    pub(super) fn documents(&mut self, target: &mut Target) -> Result<()> {
        self.each(keyspace::kind(target.old, Kind::Document), &mut |salvage, (key, value)| {
            let id = String::from_utf8_lossy(keyspace::rest_of(&key)).into_owned();
            let decoded =
                value.and_then(|value| DocumentRecord::decode(&id, &value).map_err(|error| error.to_string()));
            match decoded {
                Ok(record) => salvage.document(target, &id, record)?,
                Err(error) => salvage.found.lost(format!("{}: {error}", target.name)),
            }
            (salvage.hear)(Progress { what: &target.name, done: salvage.found.documents });
            Ok(())
        })
    }

    /// Rebuilds documents whose records are lost from their rows in the changes order.
    pub(super) fn rows(&mut self, target: &mut Target) -> Result<()> {
        self.writes.flush()?;
        self.each(keyspace::kind(target.old, Kind::Sequence), &mut |salvage, (key, value)| {
            let decoded = value.and_then(|value| SequenceRow::decode(&value).map_err(|error| error.to_string()));
            let row = match decoded {
                Ok(row) => row,
                Err(error) => {
                    salvage.found.lost(format!("{}: a row of the changes order ({error})", target.name));
                    return Ok(());
                }
            };
            if salvage.store.get(&keyspace::document(target.number, &row.id))?.is_some() {
                return Ok(());
            }
            let mut tree = Tree::new();
            for leaf in &row.leaves {
                tree.merge(
                    leaf.revision.generation,
                    std::slice::from_ref(&leaf.revision.hash),
                    leaf.deleted,
                    leaf.body,
                );
            }
            if !tree.is_empty() {
                salvage
                    .found
                    .lost(format!("{}: the history of document {}, whose leaves are kept", target.name, row.id));
                let record = DocumentRecord { sequence: keyspace::sequence_of(&key), tree };
                salvage.document(target, &row.id, record)?;
                salvage.writes.flush()?;
            }
            Ok(())
        })
    }

    /// Copies a document with every revision, body and attachment that can be read.
    fn document(&mut self, target: &mut Target, id: &str, record: DocumentRecord) -> Result<()> {
        let mut sizes: HashMap<(u64, u32), Option<u64>> = HashMap::new();
        for node in record.tree.nodes() {
            if let Some(body) = node.body {
                let size = self.body(target, id, &node.revision, body)?;
                sizes.insert((body.sequence, body.index), size);
            }
        }
        let kept = |body: Body| {
            let bytes = *sizes.get(&(body.sequence, body.index))?;
            Some(Body { bytes: bytes?, ..body })
        };
        let lost: Vec<Revision> = record
            .tree
            .leaves()
            .into_iter()
            .filter(|leaf| leaf.body.is_some_and(|body| kept(body).is_none()))
            .map(|leaf| leaf.revision.clone())
            .collect();
        let mut tree = record.tree.clone();
        tree.remove_leaves(&lost);
        for revision in &lost {
            let path: Vec<_> = record.tree.ancestry(revision).collect();
            if let Some(at) = path.iter().position(|node| node.body.and_then(kept).is_some()) {
                let hashes: Vec<_> = path[at..].iter().map(|node| node.revision.hash.clone()).collect();
                tree.merge(path[at].revision.generation, &hashes, path[at].deleted, path[at].body);
            }
        }
        tree.change_bodies(&mut |body| kept(body));
        if tree.winner().is_none() {
            self.found.lost(format!("{}: all of document {id}", target.name));
            return Ok(());
        }
        let tally = Tally::of(&tree);
        let info = &mut target.info;
        info.documents += tally.live;
        info.deleted += tally.deleted;
        info.external += tally.leaf_bytes;
        info.old += tally.all_bytes - tally.leaf_bytes;
        // Removes the copied bodies that the rebuilt tree no longer refers to.
        let named: Vec<_> =
            tree.nodes().iter().filter_map(|node| node.body).map(|body| (body.sequence, body.index)).collect();
        for place in
            sizes.into_iter().filter(|(place, size)| size.is_some() && !named.contains(place)).map(|(place, _)| place)
        {
            self.forget(target, place)?;
        }
        let record = DocumentRecord { tree, ..record };
        target.info.sequence = target.info.sequence.max(record.sequence);
        let value = record.encode();
        target.info.records += value.len() as u64;
        self.writes.put(keyspace::sequence(target.number, record.sequence), record.sequence_row(id).encode())?;
        self.writes.put(keyspace::document(target.number, id), value)?;
        self.found.documents += 1;
        Ok(())
    }
}
