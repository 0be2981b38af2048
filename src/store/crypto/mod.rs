//! Encryption of the data folder: the master key, single values, and streams of blocks.

pub(crate) mod cipher;
pub(crate) mod master_key;
pub mod sealed_stream;
