//! What `_all_docs` with a range and with `keys` have in common.

use std::sync::Arc;

use super::all_docs_params::Params;
use crate::db::read::render::{self, Show};
use crate::db::{Database, Found, Listing as Walk};
use crate::http::api::document::body_writer;
use crate::http::response::body::Sender;
use crate::http::response::error::Result;
use crate::json::quote;
use crate::store::PageLimit;

/// `,"update_seq":...` if the query asks for it.
pub(super) fn update_sequence(database: &Database, params: &Params) -> String {
    match params.update_seq {
        true => format!(",\"update_seq\":{}", quote(&database.last_sequence())),
        false => String::new(),
    }
}

/// Counts the documents of a walk by reading all of its rows.
pub(super) fn counted(database: &Database, walk: &Walk) -> crate::error::Result<u64> {
    let (mut count, mut after) = (0, None);
    loop {
        let (rows, last) = database.list(walk, after.as_deref(), PageLimit::entries(1000))?;
        count += rows.len() as u64;
        match last {
            Some(last) => after = Some(last),
            None => return Ok(count),
        }
    }
}

/// `,"doc":...`
pub(super) async fn write_doc(
    out: &mut Sender,
    database: &Arc<Database>,
    found: Option<Found>,
    show: &Show,
) -> Result<()> {
    out.write(",\"doc\":").await;
    match found {
        Some(found) => body_writer::write(out, database.blobs(), render::document(&found, show)).await,
        None => {
            out.write("null").await;
            Ok(())
        }
    }
}
