//! `_all_docs`, `_design_docs` and `_local_docs` with `keys`.

use std::sync::Arc;

use serde_json::Value;

use super::all_docs_params::{PAGE_WITH_DOCS, Params};
use super::all_docs_rows::{counted, update_sequence, write_doc};
use super::local_docs::locals_of;
use crate::blocking::blocking;
use crate::db::record::LeafRow;
use crate::db::{Database, Listing as Walk};
use crate::http::api::document::include_docs::Docs;
use crate::http::request::listing_path::DocumentList;
use crate::http::response::body::Sender;
use crate::http::response::error::Result;
use crate::json::quote;
use crate::store::Direction;

/// Writes the response of a query with `keys`: a row for each key, in the order of the keys, after `skip` and
/// `limit`.
pub(super) async fn by_keys(
    out: &mut Sender,
    database: &Arc<Database>,
    list: DocumentList,
    mut keys: Vec<Value>,
    params: Params,
) -> Result<()> {
    if params.descending {
        keys.reverse();
    }
    let fits = |key: &Value| match (list, key) {
        (DocumentList::DesignDocs, Value::String(id)) => id.starts_with("_design/"),
        (DocumentList::LocalDocs, Value::String(id)) => id.starts_with("_local/"),
        _ => true,
    };
    let limit = params.limit.map_or(usize::MAX, |limit| limit as usize);
    let keys: Vec<Value> = keys.into_iter().skip(params.skip as usize).take(limit).filter(fits).collect();
    let total = match list {
        DocumentList::AllDocs => database.info().documents.to_string(),
        DocumentList::DesignDocs => {
            let database = database.clone();
            let count = blocking(move || counted(&database, &Walk::all(Direction::Forward).within("_design/"))).await?;
            count.to_string()
        }
        DocumentList::LocalDocs => "null".to_owned(),
    };
    let sequence = update_sequence(database, &params);
    out.write(format!("{{\"total_rows\":{total},\"offset\":null{sequence},\"rows\":[\n")).await;
    let mut any = false;
    for some in keys.chunks(params.page_size().max(PAGE_WITH_DOCS)) {
        if list == DocumentList::LocalDocs {
            locals_of(out, database, some, &params, &mut any).await?;
            continue;
        }
        write_rows(out, database, some, &params, &mut any).await?;
    }
    out.write("\n]}").await;
    Ok(())
}

async fn write_rows(
    out: &mut Sender,
    database: &Arc<Database>,
    keys: &[Value],
    params: &Params,
    any: &mut bool,
) -> Result<()> {
    let ids: Vec<String> = keys.iter().map(|key| key.as_str().unwrap_or("").to_owned()).collect();
    let winners = {
        let (database, ids) = (database.clone(), ids.clone());
        blocking(move || database.winners(&ids)).await?
    };
    let living: Vec<(String, LeafRow)> = ids
        .iter()
        .zip(&winners)
        .filter_map(|(id, winner)| Some((id.clone(), winner.clone().filter(|winner| !winner.deleted)?)))
        .collect();
    let mut docs = Docs::of(database, &params.show, living.into_iter().filter(|_| params.include_docs));
    for (key, winner) in keys.iter().zip(winners) {
        let comma = if std::mem::replace(any, true) { ",\n" } else { "" };
        match winner {
            None => out.write(format!("{comma}{{\"key\":{key},\"error\":\"not_found\"}}")).await,
            Some(winner) => {
                let rev = quote(&winner.revision.to_string());
                let deleted = if winner.deleted { ",\"deleted\":true" } else { "" };
                out.write(format!("{comma}{{\"id\":{key},\"key\":{key},\"value\":{{\"rev\":{rev}{deleted}}}")).await;
                if params.include_docs {
                    let found = if winner.deleted { None } else { docs.next(out).await? };
                    write_doc(out, database, found, &params.show).await?;
                }
                out.write("}").await;
            }
        }
    }
    Ok(())
}
