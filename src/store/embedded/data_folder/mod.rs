//! Opens a data folder: determines its engine, whether another process holds it, and whether this build can
//! read it.
//!
//! ```text
//! DIR/format.toml     format version, engine, which store-N is in force; an encrypted folder's keys
//! DIR/format.tmp      the next format.toml; exists while a rewrite writes the store that it names
//! DIR/lock            held by the process that has the folder open
//! DIR/reserve         space to release when the disk is full
//! DIR/store-1/        the engine's files; `compact` makes store-2 from it, and so on
//! DIR/mark-1          high-water mark of the store (see `mark`)
//! DIR/unfinished      exists while a first start (`new`) or a restore (`restore`) creates the folder
//! DIR/blobs/          attachments (see `blob::files`); blobs-2 and so on after a change of encryption
//! ```
//!
//! A new folder is created in this order, each step durable before the next: `unfinished`, store,
//! attachments, `format.toml`, removal of `unfinished`. Therefore a `format.toml` always has a store beside
//! it. A folder in which one of the two is missing has lost it: it is refused, and never taken for a new
//! folder.

mod checks;
mod engine;
mod lock;
mod marker;
mod open;
mod open_error;
mod open_store;
mod permissions;
pub mod salvage;
mod unfinished;

pub(crate) use self::checks::{check_format, no_marker, refusal, refuse_incomplete, refuse_without_blobs};
pub use self::engine::Engine;
pub(crate) use self::engine::FORMAT;
pub(crate) use self::lock::{LOCK, Lock, lock};
#[cfg(test)]
pub(crate) use self::marker::guess_marker;
pub(crate) use self::marker::{Marker, NEXT, announce_marker, put_in_force, read_marker, remove_if_exists};
pub use self::open::{Opened, Options, begin_filling, encrypted_under, open, open_existing, open_with};
pub(crate) use self::open::{SLED_CACHE, open_blobs, open_engine};
pub use self::open_error::OpenError;
pub(crate) use self::open_store::{Home, OpenStore};
pub use self::unfinished::finish;
pub(crate) use self::unfinished::{UNFINISHED, refuse_unfinished};

#[cfg(test)]
mod tests;
