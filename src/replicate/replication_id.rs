//! The id of a replication, under which both ends keep its checkpoint.

use std::fmt;

use super::context::Context;
use super::failure::Failure;
use super::parameters::Parameters;

/// The id of a replication: the same for the same source, target and filter, whatever the password, the scheme
/// or the time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicationId {
    /// 32 hex digits: the name of the checkpoints, `_local/<base>`.
    pub base: String,
    /// `+continuous`, `+create_target`, both, or nothing.
    pub extension: String,
}

impl fmt::Display for ReplicationId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}", self.base, self.extension)
    }
}

impl ReplicationId {
    /// Computes the id of a replication. Reads the filter function of the source, if there is one: the id
    /// changes with the function's code.
    ///
    /// # Errors
    /// `FilterFetch`, and those of the network.
    pub async fn of(context: &Context, parameters: &Parameters) -> Result<ReplicationId, Failure> {
        let _ = (context, parameters);
        Err(Failure::FilterFetch("not there yet".into()))
    }
}
