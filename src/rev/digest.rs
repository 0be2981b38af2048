//! The id of a new revision, equal to what CouchDB gives the same edit (`couch_db:new_revid/1`): the MD5 of the Erlang external term
//! `[Deleted, OldStart, OldRev, Body, Atts]`. So the same edit made on two servers is one revision and not a conflict.

use md5::{Digest, Md5};

use super::id::{Revision, RevisionHash};
use super::term::Term;

/// What of an attachment goes into the revision id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentDigest<'a> {
    pub name: &'a str,
    pub content_type: &'a str,
    /// Of the content as it is stored: compressed, if it is.
    pub md5: [u8; 16],
}

/// The revision that an edit makes.
///
/// `parent` is the revision that it replaces, `body` the document's JSON object without its `_` members, as `json::split` returns it; `attachments` are all
/// of the document, in its order.
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
        // CouchDB folds from the left onto an empty list, so the last comes first.
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
