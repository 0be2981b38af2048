//! Computes the id of a new revision, equal to CouchDB's for the same edit (`couch_db:new_revid/1`): the MD5
//! of the Erlang external term `[Deleted, OldStart, OldRev, Body, Atts]`. The same edit made on two servers
//! is therefore one revision and not a conflict.

use md5::{Digest, Md5};

use super::id::{Revision, RevisionHash};
use super::term::Term;

/// The parts of an attachment that enter the revision id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentDigest<'a> {
    /// Name of the attachment.
    pub name: &'a str,
    /// Content type as stored in the document.
    pub content_type: &'a str,
    /// MD5 of the content as it is stored, that is, of the compressed bytes if it is compressed.
    pub md5: [u8; 16],
}

/// Returns the revision that an edit creates.
///
/// `parent` is the revision that the edit replaces; `body` is the document's JSON object without its `_`
/// members, as `db::parse::split` returns it; `attachments` are all attachments of the document, in document
/// order.
pub fn new_revision(
    deleted: bool,
    parent: Option<&Revision>,
    body: &str,
    attachments: &[AttachmentDigest<'_>],
) -> Revision {
    let mut term = Term::with_capacity(body.len() + 64 * attachments.len() + 64);
    term.list(5);
    term.atom(if deleted { "true" } else { "false" });
    let start = parent.map_or(0, |parent| parent.generation);
    term.integer(&start.to_string());
    match parent {
        None => _ = term.integer("0"),
        Some(parent) => term.binary(parent.hash.as_bytes()),
    }
    term.json(body);
    if attachments.is_empty() {
        term.nil();
    } else {
        term.list(attachments.len());
        // CouchDB folds from the left onto an empty list, so the last attachment comes first.
        for attachment in attachments.iter().rev() {
            term.tuple(3);
            term.binary(attachment.name.as_bytes());
            term.binary(attachment.content_type.as_bytes());
            term.binary(&attachment.md5);
        }
        term.nil();
    }
    term.nil();
    Revision { generation: start + 1, hash: RevisionHash::Md5(Md5::digest(term.bytes()).into()) }
}

#[cfg(test)]
mod tests;
