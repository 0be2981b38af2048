//! Which databases hold replications.

/// Whether a database of this name holds replications.
pub fn holds_replications(name: &str) -> bool {
    name == "_replicator" || name.ends_with("/_replicator")
}
