//! Removing attachments that no revision names any more.

use crate::db::blocking;
use crate::error::Result;
use crate::store::blobs::{BlobId, Blobs};
use crate::store::{Direction, PageLimit, Store, keys};
use std::sync::Arc;

/// Blobs that one step looks at.
const STEP: usize = 256;

/// Goes through all blobs once and removes those that nothing refers to and nobody has pinned. Returns how many.
///
/// A blob is referred to before its pin goes (see [`crate::store::blobs`]), and the question is asked while nobody can
/// pin it, so one that a commit in flight names is never removed. Nor is one that a failed commit names: it may turn out
/// to be there, so nothing is removed before the store has been opened again.
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
        let referenced = || {
            // A scan, which does not show deletions that are not yet on disk: a power cut could take them back.
            let page = store.scan(&keys::blob_references(id), Direction::Forward, PageLimit::entries(1))?;
            Ok(!page.is_empty())
        };
        // Asked without the lock first: most blobs are referred to, and writers shall not wait for the sweep.
        let settled = || {
            store.ready()?;
            referenced()
        };
        if !referenced()? && blobs.remove_unless(id, &settled)? {
            removed += 1;
        }
    }
    Ok((page.last().copied(), removed))
}

/// Whether anything refers to the blob.
pub(super) fn is_referenced(store: &dyn Store, id: &BlobId) -> Result<bool> {
    Ok(!store.scan(&keys::blob_references(id), Direction::Forward, PageLimit::entries(1))?.is_empty())
}
