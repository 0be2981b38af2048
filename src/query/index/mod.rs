//! Storage of indexes: a log-structured merge tree and snapshots of it.

pub(crate) mod lsm;
pub(crate) mod snapshot;
