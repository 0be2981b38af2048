//! The sweep: removes attachments that no revision references.

use std::sync::Arc;

use crate::blocking::blocking;
use crate::error::Result;
use crate::store::blob::blobs::{BlobId, Blobs};
use crate::store::{self, Direction, PageLimit, Store, keyspace};

/// Number of blobs per step.
const STEP: usize = 256;

/// Scans all blobs once and removes those that are neither referenced nor pinned. Returns the number of
/// removed blobs.
///
/// A blob whose reference is part of a commit in flight is never removed: a writer releases its pin only
/// after the reference is committed (see [`crate::store::blob::blobs`]), and the check runs while nobody can
/// pin the blob. A blob that a failed commit references is not removed either: the commit may have taken
/// effect, so the sweep removes nothing until the store has recovered.
pub async fn sweep(store: &Arc<dyn Store>, blobs: &Arc<dyn Blobs>) -> Result<u64> {
    let mut removed = 0;
    let mut after: Option<BlobId> = None;
    loop {
        let (store, blobs) = (store.clone(), blobs.clone());
        let (last, gone) = blocking(move || step(&*store, &*blobs, after)).await?;
        removed += gone;
        match last {
            Some(last) => after = Some(last),
            None => return Ok(removed),
        }
    }
}

fn step(store: &dyn Store, blobs: &dyn Blobs, after: Option<BlobId>) -> Result<(Option<BlobId>, u64)> {
    let page = blobs.list(after.as_ref(), STEP)?;
    let mut removed = 0;
    for id in &page {
        // Check without the lock first: most blobs are referenced, and writers must not wait for the sweep.
        let settled = || {
            store.ready()?;
            is_referenced(store, id)
        };
        if !is_referenced(store, id)? && blobs.remove_unless(id, &settled)? {
            removed += 1;
        }
    }
    Ok((page.last().copied(), removed))
}

/// Whether any revision references the blob.
pub(super) fn is_referenced(store: &dyn Store, id: &BlobId) -> store::Result<bool> {
    // A scan ignores deletions that are not yet durable, which a power cut could undo.
    Ok(!store.scan(&keyspace::blob_references(id), Direction::Forward, PageLimit::entries(1))?.is_empty())
}
