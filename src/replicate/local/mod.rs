//! A database of this server as one end of a replication: no HTTP, and nothing is serialized and parsed again.

mod blocking;
mod failure;
mod feed;
mod filter;
mod peer;
mod read;
mod write;

pub(crate) use self::filter::filter_code;
pub(crate) use self::peer::LocalPeer;
