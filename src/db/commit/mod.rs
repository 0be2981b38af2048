//! What one commit of a database consists of: the queue of works, the prepared edits, and the draft that
//! turns them into a batch. `Database` holds the queue; only `write::writer` makes drafts.

mod conflict_index;
pub(crate) mod database_records;
pub(crate) mod draft;
pub(crate) mod old_bodies;
pub(crate) mod partition;
pub mod prepared_edit;
pub mod queue;
pub mod tally;
