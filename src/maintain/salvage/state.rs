//! The state of a salvage: what it has copied so far, its source and its target.

use std::collections::HashMap;

use crate::clock::Clock;
use crate::db::record::Info;
use crate::error::Result;
use crate::maintain::bulk_writes::BulkWrites;
use crate::maintain::progress::Hear;
use crate::maintain::walk::{Found, Walk};
use crate::store::Store;
use crate::store::blob::blobs::{BlobId, Blobs, Pin};
use crate::store::embedded::salvage::Source;
use crate::store::range::KeyRange;

/// Losses that are listed; the rest are only counted.
const TOLD: usize = 1000;

/// What a salvage copied and what it lost.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Salvaged {
    pub databases: u64,
    pub documents: u64,
    pub attachments: u64,
    /// Descriptions of the first thousand losses.
    pub lost: Vec<String>,
    /// Number of losses, including those that are not in `lost`.
    pub lost_count: u64,
}

impl Salvaged {
    pub(super) fn lost(&mut self, what: String) {
        self.lost_count += 1;
        if self.lost.len() < TOLD {
            self.lost.push(what);
        }
    }
}

pub(super) struct Salvage<'a> {
    pub(super) from: &'a Source,
    pub(super) store: &'a dyn Store,
    pub(super) blobs: &'a dyn Blobs,
    pub(super) clock: &'a Clock,
    pub(super) hear: Hear<'a>,
    /// The last database number assigned in the new folder.
    pub(super) number: u64,
    /// Outcome of each attachment: its blob id in the new folder, or `None` if it is lost.
    pub(super) taken: HashMap<BlobId, Option<(BlobId, Pin)>>,
    pub(super) writes: BulkWrites<'a>,
    pub(super) found: Salvaged,
}

/// The database that is being copied, with its number in the old and in the new folder.
pub(super) struct Target {
    pub(super) name: String,
    pub(super) old: u64,
    pub(super) number: u64,
    pub(super) info: Info,
}

impl Salvage<'_> {
    /// Calls `each` for every entry in a range of the damaged store, including unreadable ones.
    pub(super) fn each(&mut self, range: KeyRange, each: &mut dyn FnMut(&mut Self, Found) -> Result<()>) -> Result<()> {
        let source = self.from;
        let mut walk = Walk::over(range);
        loop {
            let page = walk.next(source.store.as_ref())?;
            if page.is_empty() {
                return Ok(());
            }
            page.into_iter().try_for_each(|found| each(self, found))?;
        }
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Option<Vec<u8>>> {
        self.from.store.get(key).ok()
    }
}
