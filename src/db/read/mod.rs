//! Reading documents: by id, by sequence, single revisions, attachments, and rendering them as JSON.

pub(crate) mod attachment;
pub(crate) mod by_id;
pub(crate) mod by_sequence;
pub(crate) mod conflicts;
pub(crate) mod find;
mod leaves;
pub mod partition_info;
pub mod render;
pub(crate) mod revisions;
