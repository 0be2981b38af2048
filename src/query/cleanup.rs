//! `_view_cleanup`: removes indexes that no design document defines any more.

use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;

use super::index_list::definitions;
use super::mango::find;
use super::view::Views;
use crate::db::Database;
use crate::error::Result;
use crate::store::keyspace;

/// Removes the stored indexes, of views and of Mango, that no design document of the database defines. Blocks
/// on the store.
pub fn clean_up(views: &Views, database: &Arc<Database>) -> Result<()> {
    let prefix = |signature: &[u8; 16]| keyspace::index_prefix(database.number(), signature);
    let mut kept: HashSet<Vec<u8>> =
        definitions(views, database)?.iter().map(|definition| prefix(&definition.signature)).collect();
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
