//! `include_docs` of listings, feeds and views: loads the documents of rows in groups of bounded size.

use std::collections::VecDeque;
use std::sync::Arc;

use super::body_writer;
use crate::blocking::blocking;
use crate::db::read::render::Show;
use crate::db::record::LeafRow;
use crate::db::{AT_ONCE, Database, Found, Within};
use crate::error::Result;
use crate::http::response::body::Sender;
use crate::json::{member, string};
use crate::query::view::Row;
use crate::rev::Revision;

/// The documents of a page of rows, loaded on demand in groups. A group ends with the document that brings it
/// to at least [`AT_ONCE`] bytes.
pub struct Docs {
    database: Arc<Database>,
    show: Show,
    wanted: VecDeque<(String, LeafRow)>,
    loaded: std::vec::IntoIter<Option<Found>>,
}

impl Docs {
    /// Creates the iterator over the documents of `wanted`, in order. Loads nothing yet.
    pub fn of(database: &Arc<Database>, show: &Show, wanted: impl IntoIterator<Item = (String, LeafRow)>) -> Docs {
        Docs {
            database: database.clone(),
            show: show.clone(),
            wanted: wanted.into_iter().collect(),
            loaded: Vec::new().into_iter(),
        }
    }

    /// Returns the document of the next row, or `None` if it no longer exists. Reserves memory for a new
    /// group from the budget of `out`.
    pub async fn next(&mut self, out: &mut Sender) -> Result<Option<Found>> {
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
        out.load(body_writer::cost(bytes)).await;
        let (database, show) = (self.database.clone(), self.show.clone());
        let group: Vec<(String, LeafRow)> = self.wanted.drain(..fit).collect();
        let found = blocking(move || {
            let wanted: Vec<(&str, &LeafRow)> = group.iter().map(|(id, leaf)| (id.as_str(), leaf)).collect();
            database.leaves(&wanted, &show)
        });
        let found = found.await?;
        out.loaded(body_writer::cost_of(found.iter().flatten()));
        self.loaded = found.into_iter();
        Ok(self.loaded.next().flatten())
    }
}

/// Number of records loaded at once to find the revisions that rows name: their trees may be large.
const RECORDS: usize = 64;

/// The document to include with a view row.
enum Named {
    /// The `_id` in the row's value is not a string, or its document does not exist.
    Nothing,
    /// A revision: the winner, or the one that the row's value names.
    Leaf(String, LeafRow),
}

/// The document that a row names by its id, or by the `_id` and `_rev` of its value.
enum Wish {
    Nothing,
    Winner(String),
    Revision(String, Revision),
}

impl Wish {
    fn of(row: &Row) -> Wish {
        let id = match member(row.value(), "_id") {
            None => Some(row.id().to_owned()),
            Some(value) => string(value).map(|id| id.into_owned()),
        };
        let revision =
            member(row.value(), "_rev").and_then(string).and_then(|revision| revision.parse::<Revision>().ok());
        match (id, revision) {
            (None, _) => Wish::Nothing,
            (Some(id), Some(revision)) => Wish::Revision(id, revision),
            (Some(id), None) => Wish::Winner(id),
        }
    }
}

/// Returns the leaf row of each revision, given with its document's id; `None` if it is not stored.
fn revisions(database: &Database, wanted: &[(&str, &Revision)]) -> Result<Vec<Option<LeafRow>>> {
    let mut found = Vec::with_capacity(wanted.len());
    for some in wanted.chunks(RECORDS) {
        let ids: Vec<&str> = some.iter().map(|(id, _)| *id).collect();
        for (record, (_, revision)) in database.records(&ids)?.into_iter().zip(some) {
            let node = record.as_ref().and_then(|record| record.tree.get(revision)).filter(|node| node.body.is_some());
            found.push(node.map(|node| LeafRow {
                revision: node.revision.clone(),
                deleted: node.deleted,
                body: node.body,
            }));
        }
    }
    Ok(found)
}

/// A view row and its included document.
pub type WithDocument = (Row, Option<Found>);

/// A page of view rows with the documents to include: for each row the document that its value names by `_id`
/// and `_rev`, or else the document that emitted it.
#[derive(Default)]
pub struct Beside(VecDeque<(Row, Named)>);

impl Beside {
    /// Determines the document of each row, with one read for all rows that name an id and few for those that
    /// name a revision. Blocks on the disk.
    pub fn of(database: &Database, rows: Vec<Row>) -> Result<Beside> {
        let wishes: Vec<Wish> = rows.iter().map(Wish::of).collect();
        let (mut ids, mut named) = (Vec::new(), Vec::new());
        for wish in &wishes {
            match wish {
                Wish::Nothing => {}
                Wish::Winner(id) => ids.push(id.as_str()),
                Wish::Revision(id, revision) => named.push((id.as_str(), revision)),
            }
        }
        let mut winners = database.winners(&ids)?.into_iter().map(|winner| winner.filter(|winner| !winner.deleted));
        let mut revisions = revisions(database, &named)?.into_iter();
        let leaves = wishes.into_iter().map(|wish| match wish {
            Wish::Nothing => Named::Nothing,
            Wish::Winner(id) => winners.next().flatten().map_or(Named::Nothing, |leaf| Named::Leaf(id, leaf)),
            Wish::Revision(id, _) => revisions.next().flatten().map_or(Named::Nothing, |leaf| Named::Leaf(id, leaf)),
        });
        let leaves: Vec<Named> = leaves.collect();
        Ok(Beside(rows.into_iter().zip(leaves).collect()))
    }

    /// Whether all rows have been returned.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Loads the documents of the next rows, as many as fit into `room` bytes. Returns `Within::Large` with
    /// the size needed if even the first does not fit. Blocks on the disk.
    pub fn load(&mut self, database: &Database, show: &Show, room: u64) -> Result<Within<Vec<WithDocument>>> {
        let (mut left, mut rows, mut leaves) = (room, Vec::new(), Vec::new());
        while let Some((row, named)) = self.0.pop_front() {
            let bytes = match &named {
                Named::Nothing => 0,
                Named::Leaf(_, leaf) => leaf.body.map_or(0, |body| body.bytes),
            };
            if bytes > left {
                self.0.push_front((row, named));
                if rows.is_empty() {
                    return Ok(Within::Large(bytes));
                }
                break;
            }
            left -= bytes;
            if let Named::Leaf(id, leaf) = named {
                leaves.push((rows.len(), id, leaf));
            }
            rows.push((row, None));
        }
        let wanted: Vec<(&str, &LeafRow)> = leaves.iter().map(|(_, id, leaf)| (id.as_str(), leaf)).collect();
        for ((at, _, _), found) in leaves.iter().zip(database.leaves(&wanted, show)?) {
            rows[*at].1 = found;
        }
        Ok(Within::Fits(rows))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::db::{AllowAll, CreateOptions, Databases, Incoming, Mode};
    use crate::store::MemoryBlobs;
    use crate::store::memory::Memory;

    #[tokio::test]
    async fn included_documents_are_loaded_in_groups_that_fit() {
        let clock = Clock::fixed(Duration::from_secs(1));
        let databases = Databases::open(Arc::new(Memory::new()), Arc::new(MemoryBlobs::new()), clock).unwrap();
        let database = databases.create("db", CreateOptions::default(), None).unwrap();
        let json = format!("{{\"x\":\"{}\"}}", "x".repeat(1000));
        let edits = ["a", "b", "c", "d"].map(|id| Incoming::created(id, json.clone())).into();
        let written = database.update(edits, Mode::Interactive, &AllowAll).await.unwrap();
        let revision = written[3].clone().unwrap();
        let linked = format!("{{\"_id\":\"d\",\"_rev\":\"{revision}\"}}");
        let rows = [
            ("a", "1"),
            ("b", "1"),
            ("c", "1"),
            ("a", "{\"_id\":\"gone\"}"),
            ("a", "{\"_id\":1}"),
            ("a", &linked),
            ("a", "{\"_id\":\"b\"}"),
            ("a", "{\"_id\":\"d\",\"_rev\":\"9-a\"}"),
        ];
        let rows = rows.into_iter().map(|(id, value)| Row::loose(id, "null", value)).collect();
        let mut beside = Beside::of(&database, rows).unwrap();
        let mut pages = Vec::new();
        assert!(matches!(beside.load(&database, &Show::default(), 1000).unwrap(), Within::Large(1000..1100)));
        while !beside.is_empty() {
            let Within::Fits(page) = beside.load(&database, &Show::default(), 2100).unwrap() else { panic!("two fit") };
            let id = |found: Option<Found>| found.map_or_else(|| "-".to_owned(), |found| found.id);
            pages.push(page.into_iter().map(|(_, found)| id(found)).collect::<Vec<_>>().join(" "));
        }
        assert_eq!(pages, ["a b", "c - - d", "b -"]);
    }

    #[tokio::test]
    async fn revisions_that_rows_name_are_read_at_once() {
        let (store, faults) = crate::store::embedded::faults::Faults::store();
        let clock = Clock::fixed(Duration::from_secs(1));
        let databases = Databases::open(store, Arc::new(MemoryBlobs::new()), clock).unwrap();
        let database = databases.create("db", CreateOptions::default(), None).unwrap();
        let edits = (0..50).map(|number| Incoming::created(format!("doc-{number}"), "{}")).collect();
        let written = database.update(edits, Mode::Interactive, &AllowAll).await.unwrap();
        let revision = written[0].clone().unwrap();
        let reads = |rows: usize| {
            let row = |number: usize| {
                let linked = format!("{{\"_id\":\"doc-{number}\",\"_rev\":\"{revision}\"}}");
                Row::loose("view", "null", &linked)
            };
            let (_, before) = faults.calls();
            let mut beside = Beside::of(&database, (0..rows).map(row).collect()).unwrap();
            let Within::Fits(found) = beside.load(&database, &Show::default(), 1 << 20).unwrap() else {
                panic!("they fit")
            };
            let is_right = |(number, (_, found)): (usize, WithDocument)| {
                found.is_some_and(|found| found.id == format!("doc-{number}") && found.revision == revision)
            };
            assert!(found.into_iter().enumerate().all(is_right));
            faults.calls().1 - before
        };
        assert_eq!(reads(50), reads(20));
    }
}
