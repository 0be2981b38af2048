//! The name of this node.

/// CouchDB's name for a node without a cluster.
pub const NODE: &str = "nonode@nohost";
