//! Loads the leaves that rows of listings and feeds show.

use std::sync::Arc;

use super::find::{Found, Wanted};
use super::render::Show;
use crate::db::Database;
use crate::db::record::LeafRow;
use crate::error::{Error, Result};
use crate::rev::{Body, Tree};

impl Database {
    /// Loads the revision that each row shows; `None` if it no longer exists. Blocks on the disk.
    pub fn leaves(&self, wanted: &[(&str, &LeafRow)], show: &Show) -> Result<Vec<Option<Found>>> {
        let places: Vec<(&str, Body)> = wanted.iter().filter_map(|(id, leaf)| Some((*id, leaf.body?))).collect();
        let mut bodies = self.bodies(&places)?.into_iter();
        let needs_tree = show.conflicts || show.deleted_conflicts || show.revs || show.revs_info;
        let trees: Vec<Arc<Tree>> = if needs_tree {
            let ids: Vec<&str> = wanted.iter().map(|(id, _)| *id).collect();
            let records = self.records(&ids)?;
            records.into_iter().map(|record| Arc::new(record.map(|record| record.tree).unwrap_or_default())).collect()
        } else {
            let none = Arc::new(Tree::new());
            vec![none; wanted.len()]
        };
        let mut found = Vec::with_capacity(wanted.len());
        let history = self.info().revs_limit as usize;
        for ((id, leaf), tree) in wanted.iter().zip(trees) {
            let body = leaf.body.and_then(|place| Some((place, bodies.next().flatten()?)));
            found.push(match body {
                Some((place, body)) => Some(Found {
                    id: (*id).to_owned(),
                    revision: leaf.revision.clone(),
                    deleted: leaf.deleted,
                    body,
                    local_sequence: place.sequence,
                    tree,
                    history,
                }),
                // The document was changed and compacted since the row was read, or the leaf has no body: read
                // the current state of this revision.
                None => match self.find(id, Wanted::Revision(&leaf.revision)) {
                    Ok(found) => Some(found),
                    Err(Error::Missing | Error::Deleted) => None,
                    Err(error) => return Err(error),
                },
            });
        }
        Ok(found)
    }
}
