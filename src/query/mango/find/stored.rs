//! Mango indexes in the store. They are stored like views, without JavaScript: each indexed document is a row
//! whose key is the values of the index's fields and which has no value; see [`view`](crate::query::view).
//!
//! The data of an index is identified by a signature of its definition: equal definitions in two design
//! documents share one index, and a changed definition is a new index.
//!
//! Sort keys are truncated if they are too long. A range is then too wide, never too narrow, and the selector
//! decides; only the order among values with the same truncated key is arbitrary.

use super::bookmark::Bookmark;
use super::rows::{Row, Rows};
use crate::db::Database;
use crate::error::{Error, Result};
use crate::query::mango::planner::{Index, Plan, end_key, start_key};
use crate::query::mango::request::{Direction, FindRequest};
use crate::query::view::{Definition, Reading, Spots, beginning, behind, spot_of_row};
use crate::store::{self, keyspace};

/// The prefix of all the store's keys of an index, which a clean-up has to keep.
pub fn prefix(database: &Database, index: &Index) -> Vec<u8> {
    keyspace::index_prefix(database.number(), &Definition::of_index(database.number(), index).signature)
}

/// The rows in a plan's range of its index, after a bookmark if there is one.
pub(crate) struct StoredRows {
    reading: Reading,
    /// The range left to read.
    spots: Spots,
    direction: store::Direction,
}

impl StoredRows {
    pub fn new(reading: Reading, plan: &Plan, request: &FindRequest, bookmark: Option<&Bookmark>) -> StoredRows {
        let partition = request.partition.as_deref();
        let low = beginning(partition, &start_key(&plan.ranges));
        let high = behind(&beginning(partition, &end_key(&plan.ranges)));
        let mut spots = Spots { low, high };
        let direction = match plan.direction {
            Direction::Ascending => store::Direction::Forward,
            Direction::Descending => store::Direction::Backward,
        };
        if let Some(bookmark) = bookmark {
            let last = spot_of_row(partition, &bookmark.key, &bookmark.id);
            match direction {
                store::Direction::Forward => spots.low = [&last[..], &[0]].concat(),
                store::Direction::Backward => spots.high = Some(last),
            }
        }
        StoredRows { reading, spots, direction }
    }
}

impl Rows for StoredRows {
    fn next(&mut self, most: usize) -> Result<Option<Vec<Row>>> {
        let rows = self.reading.rows(&mut self.spots, self.direction, most)?;
        if rows.is_empty() {
            return Ok(None);
        }
        let row = |row: crate::query::view::Row| {
            let key = serde_json::from_str(row.key()).map_err(|_| Error::Damaged("a row of a Mango index".into()))?;
            Ok(Row { id: row.id().to_owned(), key, winner: None })
        };
        rows.into_iter().map(row).collect::<Result<Vec<Row>>>().map(Some)
    }
}
