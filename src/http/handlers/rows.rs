//! The documents beside rows: `include_docs` of listings and feeds, a page at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::db::record::LeafRow;
use crate::db::render::Show;
use crate::db::{AT_ONCE, Database, Found, Wanted, blocking};
use crate::error::{Error, Result};
use crate::rev::{Body, Tree};

/// Loads the revision that each row shows; `None` where it is not there any more. Blocks on the disk.
pub fn load(database: &Database, wanted: &[(&str, &LeafRow)], show: &Show) -> Result<Vec<Option<Found>>> {
    let places: Vec<(&str, Body)> = wanted.iter().filter_map(|(id, leaf)| Some((*id, leaf.body?))).collect();
    let mut bodies = database.bodies(&places)?.into_iter();
    let needs_tree = show.conflicts || show.deleted_conflicts || show.revs || show.revs_info;
    let trees: Vec<Arc<Tree>> = if needs_tree {
        let ids: Vec<&str> = wanted.iter().map(|(id, _)| *id).collect();
        let records = database.records(&ids)?;
        records.into_iter().map(|record| Arc::new(record.map(|record| record.tree).unwrap_or_default())).collect()
    } else {
        let none = Arc::new(Tree::new());
        vec![none; wanted.len()]
    };
    let mut found = Vec::with_capacity(wanted.len());
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
                history: database.info().revs_limit as usize,
            }),
            // Changed and compacted since the row was read: what is there now is the better answer.
            None => match database.find(id, Wanted::Revision(&leaf.revision)) {
                Ok(found) => Some(found),
                Err(Error::Missing | Error::Deleted) => None,
                Err(error) => return Err(error),
            },
        });
    }
    Ok(found)
}

/// The documents of a page of rows, loaded as they are asked for: as many at once as fit [`AT_ONCE`].
pub struct Docs {
    database: Arc<Database>,
    show: Show,
    wanted: VecDeque<(String, LeafRow)>,
    loaded: std::vec::IntoIter<Option<Found>>,
}

impl Docs {
    pub fn of(database: &Arc<Database>, show: &Show, wanted: impl IntoIterator<Item = (String, LeafRow)>) -> Docs {
        Docs {
            database: database.clone(),
            show: show.clone(),
            wanted: wanted.into_iter().collect(),
            loaded: Vec::new().into_iter(),
        }
    }

    /// The next row's document; `None` where it is not there any more.
    pub async fn next(&mut self) -> Result<Option<Found>> {
        if let Some(found) = self.loaded.next() {
            return Ok(found);
        }
        let mut bytes = 0;
        let fit = self.wanted.iter().take_while(|(_, leaf)| {
            let room = bytes < AT_ONCE;
            bytes += leaf.body.map_or(0, |body| body.bytes);
            room
        });
        let fit = fit.count();
        let (database, show) = (self.database.clone(), self.show.clone());
        let group: Vec<(String, LeafRow)> = self.wanted.drain(..fit).collect();
        let found = blocking(move || {
            let wanted: Vec<(&str, &LeafRow)> = group.iter().map(|(id, leaf)| (id.as_str(), leaf)).collect();
            load(&database, &wanted, &show)
        });
        self.loaded = found.await?.into_iter();
        Ok(self.loaded.next().flatten())
    }
}
