//! Storage of indexes: a log-structured merge tree, snapshots of it, and the upkeep of the indexes of one node.

pub(crate) mod lsm;
pub(crate) mod snapshot;
pub(crate) mod upkeep;
