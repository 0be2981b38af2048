//! `_view_cleanup`: removes indexes that no design document defines any more.

use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;

use super::mango::find;
use super::view::Views;
use crate::db::{Database, Listing};
use crate::error::{Error, Result};
use crate::store::{Direction, PageLimit, keyspace};

/// Removes the stored indexes, of views and of Mango, that no design document of the database defines. Blocks
/// on the store.
pub fn clean_up(views: &Views, database: &Arc<Database>) -> Result<()> {
    let mut kept: HashSet<Vec<u8>> = HashSet::new();
    let listing = Listing::all(Direction::Forward).within("_design/");
    let mut after = None;
    loop {
        let (rows, last) = database.list(&listing, after.as_deref(), PageLimit::entries(200))?;
        for row in rows {
            match views.definition(database, &row.id) {
                Ok(definition) => {
                    kept.insert(keyspace::index_prefix(database.number(), &definition.signature));
                }
                // The document was deleted in the meantime, or has no valid definition.
                Err(Error::Missing | Error::Deleted | Error::Script { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        match last {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    kept.extend(find::indexes(database)?.iter().map(|index| find::prefix(database, index)));
    let store = database.index_store();
    let (mut low, high) = keyspace::indexes(database.number());
    let length = keyspace::index_prefix(database.number(), &[0; 16]).len();
    loop {
        let next = store.keys(&(low.clone(), high.clone()), 1)?;
        let Some(prefix) = next.first().and_then(|key| key.get(..length)) else { return Ok(()) };
        if !kept.contains(prefix) {
            views.histories().remove(&**store, prefix)?;
        }
        low = match keyspace::after_prefix(prefix) {
            Bound::Excluded(end) => Bound::Included(end),
            _ => return Ok(()),
        };
    }
}
