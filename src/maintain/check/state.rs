//! The state of a check: its results so far, and the readers that it uses.

use std::collections::HashSet;
use std::ops::Bound;

use crate::error::{Error, Result};
use crate::maintain::progress::Hear;
use crate::store::Store;
use crate::store::blob::blobs::{BlobId, Blobs};
use crate::store::range::KeyRange;

/// Keys per page.
pub(super) const PAGE: usize = 500;
/// Problems that are listed; the rest are only counted.
const TOLD: usize = 1000;

/// What a check found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Checked {
    pub databases: u64,
    /// Number of documents, including deleted ones.
    pub documents: u64,
    /// Number of bodies that revision trees refer to and that are stored.
    pub bodies: u64,
    /// Number of distinct attachments that were read.
    pub attachments: u64,
    /// Stored bytes of these attachments.
    pub attachment_bytes: u64,
    /// Descriptions of the first thousand problems. Each names the database and the document.
    pub problems: Vec<String>,
    /// Number of problems, including those that are not in `problems`.
    pub problem_count: u64,
    /// Harmless leftovers that background work removes.
    pub notes: Vec<String>,
}

impl Checked {
    pub(super) fn problem(&mut self, what: String) {
        self.problem_count += 1;
        if self.problems.len() < TOLD {
            self.problems.push(what);
        }
    }
}

pub(super) struct Check<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) blobs: &'a dyn Blobs,
    pub(super) hear: Hear<'a>,
    pub(super) found: Checked,
    /// Blobs that have been read.
    pub(super) seen: HashSet<BlobId>,
    /// Those of them that could not be read, or are damaged.
    pub(super) broken: Vec<BlobId>,
    /// Number of references from blobs to bodies that the bodies need.
    pub(super) references: u64,
}

impl<'a> Check<'a> {
    pub(super) fn new(store: &'a dyn Store, blobs: &'a dyn Blobs, hear: Hear<'a>) -> Check<'a> {
        Check { store, blobs, hear, found: Checked::default(), seen: HashSet::new(), broken: Vec::new(), references: 0 }
    }
}

impl Check<'_> {
    pub(super) fn value(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = self.store.get_each(&[key.to_vec()])?.pop();
        match found {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => {
                self.found.problem(Error::from(error).to_string());
                Ok(None)
            }
            None => Ok(None),
        }
    }

    pub(super) fn count_keys(&self, mut range: KeyRange) -> Result<u64> {
        let mut count = 0;
        loop {
            let page = self.store.keys(&range, 4 * PAGE)?;
            let Some(last) = page.last() else { return Ok(count) };
            range.0 = Bound::Excluded(last.clone());
            count += page.len() as u64;
        }
    }
}
