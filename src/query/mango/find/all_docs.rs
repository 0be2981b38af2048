//! The documents by id, as an index: the last resort for every query.

use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;

use super::bookmark::Bookmark;
use super::rows::{Row, Rows};
use crate::db::{Database, Listing};
use crate::error::Result;
use crate::query::mango::planner::{High, Low, Plan, Range};
use crate::query::mango::request::{Direction, FindRequest};
use crate::store::{self, PageLimit};

/// Iterates over the ids in a plan's range.
pub(crate) struct AllDocs {
    database: Arc<Database>,
    /// `None` if no id can match, or at the end.
    listing: Option<Listing>,
    /// The last id that was returned.
    after: Option<String>,
}

impl AllDocs {
    pub(crate) fn new(
        database: Arc<Database>,
        plan: &Plan,
        request: &FindRequest,
        bookmark: Option<&Bookmark>,
    ) -> AllDocs {
        let mut listing = listing(plan.ranges.first(), plan.direction);
        if let Some(partition) = &request.partition {
            listing = listing.map(|listing| listing.within(&format!("{partition}:")));
        }
        AllDocs { database, listing, after: bookmark.map(|bookmark| bookmark.id.clone()) }
    }
}

impl Rows for AllDocs {
    fn next(&mut self, most: usize) -> Result<Option<Vec<Row>>> {
        let Some(listing) = &self.listing else { return Ok(None) };
        let (rows, last) = self.database.list(listing, self.after.as_deref(), PageLimit::entries(most))?;
        if last.is_none() {
            self.listing = None;
            return Ok(None);
        }
        self.after = last;
        Ok(Some(rows.into_iter().map(|row| Row { id: row.id, key: Vec::new(), winner: Some(row.winner) }).collect()))
    }
}

/// The ids in a range. Ids are strings, which sort above all other values in the order of `_all_docs`.
fn listing(range: Option<&Range>, direction: Direction) -> Option<Listing> {
    let (low, high) = match range {
        None => (Bound::Unbounded, Bound::Unbounded),
        Some(Range::Empty) => return None,
        Some(Range::Between(low, high)) => {
            let low = match low {
                Low::Min => Bound::Unbounded,
                Low::Above(value) | Low::From(value) | Low::Exactly(value) => match value {
                    Value::String(id) => Bound::Included(id.clone()),
                    _ => Bound::Unbounded,
                },
            };
            let high = match high {
                High::Max => Bound::Unbounded,
                High::Below(value) | High::To(value) | High::Exactly(value) => match value {
                    Value::String(id) => Bound::Included(id.clone()),
                    _ => return None,
                },
            };
            (low, high)
        }
    };
    Some(match direction {
        Direction::Ascending => Listing { start: low, end: high, direction: store::Direction::Forward },
        Direction::Descending => Listing { start: high, end: low, direction: store::Direction::Backward },
    })
}
