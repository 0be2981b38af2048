//! Encryption of the data folder: the master key, single values, and streams of chunks.

pub(crate) mod cipher;
pub(crate) mod master_key;
pub mod sealed_stream;
