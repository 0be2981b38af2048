//! `open_revs`: several leaves of one document.

use std::sync::Arc;

use super::body_writer;
use crate::blocking::{blocking, reading};
use crate::db::{AT_ONCE, Database, Found, Opened, Wanted, Within};
use crate::http::response::body::Sender;
use crate::http::response::error::{Failure, Result};
use crate::json::quote;
use crate::policy::visibility::Eyes;
use crate::rev::Revision;

/// The leaves that `open_revs` requests, loaded in groups while the response is written.
pub(crate) struct Leaves {
    pub database: Arc<Database>,
    pub(crate) eyes: Eyes,
    pub(crate) opened: Opened,
    /// No leaf at all is a 404; cleared after the first group.
    pub(crate) wanted: bool,
}

impl Leaves {
    /// Returns the next group, or `None` at the end. Requested revisions that do not exist are `Err`.
    pub async fn next(&mut self, out: &mut Sender) -> Result<Option<Vec<std::result::Result<Found, Revision>>>> {
        let mut room = AT_ONCE;
        let group = loop {
            out.load(body_writer::cost(room)).await;
            let (database, mut opened) = (self.database.clone(), std::mem::take(&mut self.opened));
            let next = blocking(move || {
                let group = opened.next(&database, room)?;
                Ok((opened, group))
            });
            let (opened, group) = next.await?;
            self.opened = opened;
            match group {
                Within::Fits(group) => break group,
                Within::Large(bytes) => room = bytes,
            }
        };
        out.loaded(body_writer::cost_of(group.iter().flatten()));
        if group.is_empty() {
            return if self.wanted { Err(Failure::missing()) } else { Ok(None) };
        }
        self.wanted = false;
        Ok(Some(self.eyes.see_all(group)?))
    }
}

/// `{"missing": rev}`.
pub(crate) fn missing(revision: &Revision) -> String {
    format!("{{\"missing\":{}}}", quote(&revision.to_string()))
}

/// Reads a revision of a document, by default the winner, without an access check and without a memory
/// reservation. For handlers that edit it.
pub async fn find(database: &Arc<Database>, id: &str, rev: Option<Revision>) -> crate::error::Result<Found> {
    crate::db::check_has_partition(id, database.is_partitioned())?;
    let (database, id) = (database.clone(), id.to_owned());
    reading(move || {
        let wanted = rev.as_ref().map_or(Wanted::Winner, Wanted::Revision);
        database.find(&id, wanted)
    })
    .await
}
