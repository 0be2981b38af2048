//! The indexes of a database: those that design documents define, and stored ones that none of them defines any more.

use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;

use super::index::lsm;
use super::mango::find;
use super::view::{Definition, Views};
use crate::db::{Database, Listing};
use crate::error::{Error, Result};
use crate::store::{Direction, PageLimit, keyspace};

/// An index that a design document defines.
pub struct Defined {
    pub definition: Arc<Definition>,
    /// The name of a Mango index; `None` for the views of a design document, which share one index.
    pub mango: Option<String>,
}

/// A stored index that no design document defines.
pub struct Orphan {
    pub signature: [u8; 16],
    pub bytes: u64,
}

/// The definitions of all design documents that can be read. Blocks on the store.
pub fn definitions(views: &Views, database: &Database) -> Result<Vec<Arc<Definition>>> {
    let mut found = Vec::new();
    let listing = Listing::all(Direction::Forward).within("_design/");
    let mut after = None;
    loop {
        let (rows, last) = database.list(&listing, after.as_deref(), PageLimit::entries(200))?;
        for row in rows {
            match views.definition(database, &row.id) {
                Ok(definition) => found.push(definition),
                // The document was deleted in the meantime, or has no valid definition.
                Err(Error::Missing | Error::Deleted | Error::Script { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        match last {
            Some(last) => after = Some(last),
            None => return Ok(found),
        }
    }
}

/// All indexes that the design documents define, stored or not, and the stored ones that none of them defines. Blocks on
/// the store.
pub fn list(views: &Views, database: &Arc<Database>) -> Result<(Vec<Defined>, Vec<Orphan>)> {
    let definitions = definitions(views, database)?;
    let mut known: HashSet<[u8; 16]> = definitions.iter().map(|definition| definition.signature).collect();
    let mut defined: Vec<Defined> = definitions
        .into_iter()
        .filter(|definition| definition.mango.is_none() && definition.has_views())
        .map(|definition| Defined { definition, mango: None })
        .collect();
    for index in find::indexes(database)? {
        let definition = Arc::new(Definition::of_index(database.number(), &index));
        defined.push(Defined { definition, mango: Some(index.name) });
    }
    known.extend(defined.iter().map(|index| index.definition.signature));
    let store = database.index_store();
    let mut orphans = Vec::new();
    let (mut low, high) = keyspace::indexes(database.number());
    while let Some((_, signature)) =
        store.keys(&(low, high.clone()), 1)?.first().and_then(|key| keyspace::index_of(key))
    {
        let prefix = keyspace::index_prefix(database.number(), &signature);
        if !known.contains(&signature) {
            orphans.push(Orphan { signature, bytes: lsm::stored_bytes(&**store, &prefix)? });
        }
        low = match keyspace::after_prefix(&prefix) {
            Bound::Excluded(end) => Bound::Included(end),
            _ => break,
        };
    }
    Ok((defined, orphans))
}
