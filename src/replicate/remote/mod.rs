//! A database of another server as one end of a replication, over HTTP.
//!
//! ```text
//! peer       the calls of a pass             requester   one request: credentials, retries, redirects
//! changes    the feed, page by page          answer      the body of an answer, within its limits
//!                                            pace        whether it comes too slowly
//! documents  _bulk_get, open_revs            rows        cuts JSON rows out of a stream
//! writes     _bulk_docs, multipart PUT       sign_in     sessions and passwords
//!                                            redirect    URLs, and where redirects lead
//! ```
//! Nothing that a peer sends is trusted: every answer has a size limit and every wait an end; what was not asked
//! for is ignored; a revision counts as delivered only if its history has the revision that was asked for, and
//! an attachment only if its content has the digest that the document names.

mod answer;
mod arrived;
mod asked;
mod changes;
mod connection;
mod documents;
mod multipart;
mod outgoing;
mod pace;
mod peer;
mod redirect;
mod requester;
mod rows;
mod sign_in;
mod text;
mod writes;

#[cfg(test)]
pub(crate) use self::asked::AT_ONCE as READ_AT_ONCE;
pub(crate) use self::peer::RemotePeer;
