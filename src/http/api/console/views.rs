//! GET `/{db}/_views`: the indexes of a database: their design documents, sizes, how far they are, and how often they
//! were used.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::app::App;
use crate::blocking::blocking;
use crate::db::Database;
use crate::hex::hex;
use crate::http::response::Answer;
use crate::http::response::error::Result;
use crate::query::index_list::{self, Defined, Orphan};
use crate::query::view::Meta;

/// Lists the indexes; uses are counted from `since` on, the start of the server.
pub async fn list(app: &Arc<App>, database: Arc<Database>) -> Result<Answer> {
    let (of, db) = (app.clone(), database.clone());
    let (rows, orphans) = blocking(move || {
        let (defined, orphans) = index_list::list(&of.views, &db)?;
        let mut rows = Vec::with_capacity(defined.len());
        for index in defined {
            let reading = of.views.read_as_it_stands(&db, &index.definition)?;
            rows.push(row(&of, &db, &index, reading.bytes()?, &reading.meta));
        }
        Ok((rows, orphans))
    })
    .await?;
    let rows: Vec<Value> = rows.into_iter().chain(orphans.iter().map(orphan)).collect();
    let running = app.started.elapsed().as_millis() as u64;
    let since = (app.clock.since_epoch().as_millis() as u64).saturating_sub(running);
    Ok(Answer::ok(&json!({"since": since, "rows": rows})))
}

fn row(app: &App, database: &Database, index: &Defined, file: u64, meta: &Meta) -> Value {
    let definition = &index.definition;
    let (_, building) = app.views.activity(database, definition);
    let active: u64 = meta.rows.iter().map(|(_, bytes)| bytes).sum();
    let (uses, last_used) = match app.views.uses(database, definition) {
        Some((0, _)) => (json!(0), Value::Null),
        Some((uses, last)) => (json!(uses), json!(last)),
        None => (Value::Null, Value::Null),
    };
    let views = match &index.mango {
        Some(name) => vec![name.as_str()],
        None => definition.view_names(),
    };
    json!({
        "design": definition.id,
        "kind": if index.mango.is_some() { "mango" } else { "view" },
        "name": index.mango.as_deref().unwrap_or(definition.id.trim_start_matches("_design/")),
        "views": views,
        "signature": hex(&definition.signature),
        "sizes": {"active": active.min(file), "file": file},
        "update_seq": meta.sequence,
        "pending": database.info().sequence.saturating_sub(meta.sequence),
        "building": building,
        "uses": uses,
        "last_used": last_used,
        "orphan": false,
    })
}

fn orphan(index: &Orphan) -> Value {
    json!({
        "design": null,
        "kind": null,
        "name": null,
        "views": [],
        "signature": hex(&index.signature),
        "sizes": {"active": 0, "file": index.bytes},
        "update_seq": null,
        "pending": null,
        "building": false,
        "uses": null,
        "last_used": null,
        "orphan": true,
    })
}
