//! A database of another server as one end of a replication, over HTTP.
//!
//! ```text
//! peer       the calls of a pass             requester   one request: credentials, retries, redirects
//! changes    the feed, page by page          answer      the body of an answer, within its limits
//! documents  _bulk_get, open_revs            rows        cuts JSON rows out of a stream
//! writes     _bulk_docs, multipart PUT
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
mod peer;
mod requester;
mod rows;
mod text;
mod writes;

pub(crate) use self::peer::RemotePeer;
