//! The sled engine (0.34.7), hardened. Only the files of this folder use the crate `sled`.
//!
//! As shipped, sled loses acknowledged writes at a power cut, and sometimes the whole database. The
//! countermeasures:
//!
//! - On Linux, `flush()` does not reach the device. Every flush is followed by our own `fdatasync` of the
//!   `db` file.
//! - sled writes a page larger than a quarter of a segment to a separate file in `blobs/` that it never
//!   syncs. A leaf holds up to 17 entries. With segments of 2 MiB and values cut into chunks of at most 4
//!   KiB, no leaf comes near 512 KiB. An inner node holds up to 256 keys and can be larger; the files of
//!   such nodes are synced with the log.
//! - sled keeps up to six segments in memory while it writes, and evicts pages only after 64 accesses to
//!   their part of the cache. Small segments and small chunks bound that memory, and a scan accesses a leaf
//!   once for each 4 KiB of it.
//! - A snapshot torn by a kill (`snap.*.generating`) makes the next open fail. It holds nothing that is
//!   needed, so it is deleted before sled opens.
//! - The directory entries of a new database are synced.
//! - Trees are expensive, so there is only one. Only sled's background flusher reclaims segments, so it is
//!   enabled.
//! - The file grows by whole segments and shrinks only at its end. sled reuses free segments before the file
//!   grows, but does not report how many there are. It fills free segments with zeros when it opens, so we
//!   count the zeroed ones.
//! - A batch is visible to readers before it is on disk, and stays visible after it failed. Until the batch
//!   is synced, readers get the values from before it (`in_flight`, an undo log of one batch).
//!
//! A fresh store is not filled by sled: `bulk` writes its log, in which each page occurs once.
//!
//! A large value is stored in chunks under keys that begin with 0xFF. The value's own key holds a head that
//! refers to them:
//!
//! ```text
//! key                      0x03, chunk set (8 bytes), length (8), CRC-32 of key and the 17 bytes before (4)
//! 0xFF, chunk set, index   up to 4 KiB of the framed value (up to 64 KiB where the head begins with 0x01)
//! ```
//!
//! The process never reuses the number of a chunk set. A reader that finds a chunk missing therefore knows
//! that the value has been replaced, and reads the head again.

mod backend;
mod bulk;
mod error;
mod files;
mod log;
mod undo;
mod value;

pub(crate) use self::backend::SledBackend;
pub(crate) use self::bulk::BulkWriter;

#[cfg(test)]
mod tests;
