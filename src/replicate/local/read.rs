//! Reads revisions with their histories from a database of this server.

use std::sync::Arc;

use super::blocking::blocking;
use crate::db::{AT_ONCE, Database, Found, Opened, Within};
use crate::error::Error;
use crate::replicate::failure::Failure;
use crate::replicate::peer::{Attached, Content, Document, Missing, Sink};
use crate::rev::Revision;

/// Why reading ended.
pub(super) enum Stopped {
    /// This database.
    Here(Error),
    /// The other end.
    There(Failure),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Stopped {
        Stopped::Here(error)
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Stopped {
        Stopped::There(failure)
    }
}

/// Entries of one read.
const ENTRIES: usize = 500;

/// A revision, or the id of one that no longer exists.
type Answer = std::result::Result<Found, Option<Revision>>;

/// Delivers the revisions, each as the newest leaf that descends from it. A revision that is not there any more
/// was purged: it is left out.
pub(super) async fn fetch(
    database: &Arc<Database>,
    wanted: Vec<Missing>,
    sink: &mut dyn Sink,
) -> std::result::Result<(), Stopped> {
    let mut left: Vec<(String, Option<Revision>)> = Vec::with_capacity(wanted.len());
    for missing in wanted {
        left.extend(missing.revisions.into_iter().map(|revision| (missing.id.clone(), Some(revision))));
    }
    let mut room = AT_ONCE;
    let mut left = left.as_slice();
    while !left.is_empty() {
        let (of, some) = (database.clone(), left[..left.len().min(ENTRIES)].to_vec());
        let loaded = blocking(move || of.bulk_get(&some, true, room)).await?;
        let answers = match loaded {
            Within::Fits(answers) => answers,
            Within::Large(bytes) => {
                room = bytes;
                continue;
            }
        };
        room = AT_ONCE;
        left = &left[answers.len()..];
        for (found, rest) in answers {
            deliver(database, found, sink).await?;
            if let Some(rest) = rest {
                deliver_rest(database, rest, sink).await?;
            }
        }
    }
    Ok(())
}

/// Delivers the revisions of one entry that did not fit into one read.
async fn deliver_rest(
    database: &Arc<Database>,
    mut rest: Opened,
    sink: &mut dyn Sink,
) -> std::result::Result<(), Stopped> {
    let mut room = AT_ONCE;
    loop {
        let of = database.clone();
        let (opened, group) = blocking(move || {
            let group = rest.next(&of, room)?;
            Ok((rest, group))
        })
        .await?;
        rest = opened;
        match group {
            Within::Fits(group) if group.is_empty() => return Ok(()),
            Within::Fits(group) => {
                let group = group.into_iter().map(|answer| answer.map_err(Some)).collect();
                deliver(database, group, sink).await?;
                room = AT_ONCE;
            }
            Within::Large(bytes) => room = bytes,
        }
    }
}

async fn deliver(
    database: &Arc<Database>,
    answers: Vec<Answer>,
    sink: &mut dyn Sink,
) -> std::result::Result<(), Stopped> {
    for found in answers.into_iter().flatten() {
        if found.body.attachments.is_empty() {
            sink.deliver(document(found, Vec::new())).await?;
            continue;
        }
        let (of, attachments) = (database.clone(), found.body.attachments.clone());
        // Without the content the revision was purged after it was read.
        let Some(pins) = blocking(move || of.pins(&attachments)).await? else { continue };
        sink.deliver(document(found, pins)).await?;
    }
    Ok(())
}

/// The document with the contents of its attachments, in their order.
fn document(found: Found, pins: Vec<crate::store::blob::blobs::Pin>) -> Document {
    let ancestry = found.tree.ancestry(&found.revision).take(found.history.max(1));
    let path = (found.revision.generation, ancestry.map(|node| node.revision.hash.clone()).collect());
    let attached = found.body.attachments.into_iter().zip(pins);
    Document {
        id: found.id,
        path,
        deleted: found.deleted,
        json: found.body.json,
        attachments: attached.map(|(about, pin)| Attached { about, content: Content::Blob(pin) }).collect(),
        held: None,
    }
}
