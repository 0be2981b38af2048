//! The edits that clients and peers send, decoded.

use crate::db::record::Attachment;
use crate::rev::{Revision, RevisionHash};
use crate::store::blob::blobs::Pin;

/// A decoded edit from a client or a peer.
pub struct Incoming {
    pub id: String,
    /// Interactive mode: the revision that the edit extends.
    pub parent: Option<Revision>,
    /// Replicated mode: generation and hashes of the revision and its ancestors, newest first; never empty.
    pub path: (u64, Vec<RevisionHash>),
    pub deleted: bool,
    /// The body: compact JSON text without members that start with `_`.
    pub json: String,
    /// Attachments by name.
    pub attachments: Vec<(String, Source)>,
}

#[cfg(test)]
impl Incoming {
    /// An interactive edit that creates a document without attachments.
    pub fn created(id: impl Into<String>, json: impl Into<String>) -> Incoming {
        Incoming {
            id: id.into(),
            parent: None,
            path: (0, Vec::new()),
            deleted: false,
            json: json.into(),
            attachments: Vec::new(),
        }
    }
}

/// Where an attachment of an edit comes from.
pub enum Source {
    /// Taken from the parent revision, by name. `revpos`, if set, must equal the parent's (CouchDB:
    /// `couch_doc:merge_stubs`).
    Stub { revpos: Option<u64> },
    /// Stored as a blob already. The edit sets `attachment.revpos` unless `keep_revpos`.
    Written { attachment: Attachment, keep_revpos: bool, pin: Pin },
}
