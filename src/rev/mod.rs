//! Revision ids and revision trees: pure data structures without I/O, async or a clock.

mod codec;
mod digest;
mod id;
mod term;
mod tree;

pub use digest::{AttachmentDigest, new_revision};
pub use id::{BadRevision, MAX_GENERATION, MAX_HASH, Revision, RevisionHash};
pub use term::{Term, unescape};
pub use tree::{Body, Merged, Node, Tree};
