//! The storage interface: an ordered map of bytes with atomic, durable, conditional commits, and beside it
//! content-addressed blobs.
//!
//! All persistent data except attachment content goes through [`Store`]. No engine offers a snapshot across
//! calls, so the layers above must not need one: a reader that finds a body gone re-reads the record.
//!
//! `docs/storage-format.md` lists every key and value, and `keyspace` builds the keys. Engines know nothing of
//! either.

pub mod blob;
pub mod crypto;
pub(crate) mod disk_space;
pub mod embedded;
mod interface;
pub mod keyspace;
pub mod memory;
mod pages;
pub mod postgres;
pub mod range;
pub(crate) mod reserved_keys;
#[cfg(test)]
pub(crate) mod rival;
#[cfg(test)]
pub(crate) mod shared_memory;
mod update;

pub use self::blob::memory::MemoryBlobs;
pub use self::crypto::master_key::Key;
pub use self::embedded::data_folder::{
    Engine, OpenError, Opened, Options, begin_filling, encrypted_under, finish, open, open_existing, open_with,
};
pub use self::embedded::rewrite::{Renamed, Rewrite, Sealing, Step, compact, rewrite};
pub use self::interface::{
    Batch, Direction, Durability, Entry, Hear, Later, LeftMarks, MAX_KEY, Mark, PageLimit, Result, Store, StoreError,
};
pub use self::pages::{Pages, pages};
pub use self::update::{Change, pause_after_conflict, update, update_with};

#[cfg(test)]
mod conformance;
