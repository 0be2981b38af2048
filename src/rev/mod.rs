//! Revision ids and revision trees: pure data structures without I/O, async or a clock.

#![warn(missing_docs)]

mod codec;
mod digest;
mod id;
mod term;
mod tree;

pub use self::digest::{AttachmentDigest, Digests, new_revision};
pub use self::id::{BadRevision, MAX_GENERATION, MAX_HASH, Revision, RevisionHash};
pub use self::term::Term;
pub use self::tree::{Body, Merged, Node, Tree};
