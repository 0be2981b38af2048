//! Counters of reads and writes, for all databases of a server together.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the server started. They are accessed with relaxed ordering: no decision depends on them.
#[derive(Debug, Default)]
pub struct Counts {
    /// Documents that were read.
    reads: AtomicU64,
    /// Calls that changed a database. Calls that share a commit are counted separately.
    writes: AtomicU64,
    /// Documents that were written.
    document_writes: AtomicU64,
    /// Documents that were written for the first time.
    document_inserts: AtomicU64,
}

impl Counts {
    /// Documents that were read.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Calls that changed a database.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Documents that were written.
    pub fn document_writes(&self) -> u64 {
        self.document_writes.load(Ordering::Relaxed)
    }

    /// Documents that were written for the first time.
    pub fn document_inserts(&self) -> u64 {
        self.document_inserts.load(Ordering::Relaxed)
    }

    pub(super) fn read(&self, documents: usize) {
        self.reads.fetch_add(documents as u64, Ordering::Relaxed);
    }

    pub(super) fn wrote(&self, calls: usize, written: u64, inserted: u64) {
        self.writes.fetch_add(calls as u64, Ordering::Relaxed);
        self.document_writes.fetch_add(written, Ordering::Relaxed);
        self.document_inserts.fetch_add(inserted, Ordering::Relaxed);
    }
}

/// What all databases of a server share beside the store.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Bytes that a partition may hold; 0: any number.
    pub partition_limit: AtomicU64,
    pub counts: Counts,
}
