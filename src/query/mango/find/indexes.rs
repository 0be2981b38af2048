//! The indexes of a database, as its design documents define them.

use serde_json::Value;

use crate::db::{Database, Listing};
use crate::error::Result;
use crate::query::mango::planner::Index;
use crate::rev::Body;
use crate::store::{Direction, PageLimit};

/// Every index of every design document of language `query`, ordered by design document and name. Blocks on
/// the store.
pub fn indexes(database: &Database) -> Result<Vec<Index>> {
    let listing = Listing::all(Direction::Forward).within("_design/");
    let partitioned = database.is_partitioned();
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let (rows, last) = database.list(&listing, after.as_deref(), PageLimit::entries(100))?;
        let places: Vec<(&str, Body)> =
            rows.iter().filter_map(|row| Some((row.id.as_str(), row.winner.body?))).collect();
        for ((id, _), body) in places.iter().zip(database.bodies(&places)?) {
            // Most design documents are JavaScript; skip them without parsing the whole text.
            let Some(body) = body.filter(|body| is_query(&body.json)) else { continue };
            if let Ok(design) = crate::json::read::<Value>(&body.json) {
                found.extend(Index::of_design(id, &design, partitioned));
            }
        }
        match last {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    found.sort_by(|left, right| left.order().cmp(&right.order()));
    Ok(found)
}

fn is_query(body: &str) -> bool {
    crate::json::member(body, "language").and_then(crate::json::string).is_some_and(|language| language == "query")
}
