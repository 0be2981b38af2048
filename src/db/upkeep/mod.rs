//! What keeps a database small and correct: purge, compaction, automatic purge, limits, removal.

pub(crate) mod auto_purge;
pub(crate) mod compaction;
mod conflict_index;
pub mod hold;
pub mod limits;
pub mod purge;
pub mod removal;
mod security;
