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

/// What the attachments of a document add to its revision id.
#[derive(Debug, Clone, Copy)]
pub enum Digests<'a> {
    /// The attachments, in the order of the document.
    Known(&'a [AttachmentDigest<'a>]),
    /// This many attachments of a document that is created again over its tombstone. CouchDB computes that id after
    /// it has written the attachments, when it can no longer read their names and digests
    /// (`couch_db_updater:merge_rev_tree`), and writes `undefined` three times for each.
    Undefined(usize),
}

/// Returns the revision that an edit creates.
///
/// `parent` is the revision that the edit replaces; `body` is the document's JSON object without its `_`
/// members, as `db::parse::split` returns it; `attachments` are all attachments of the document.
pub fn new_revision(deleted: bool, parent: Option<&Revision>, body: &str, attachments: Digests<'_>) -> Revision {
    let mut term = Term::with_capacity(body.len() + 64 * attachments.count() + 64);
    term.list(5);
    term.atom(if deleted { "true" } else { "false" });
    let start = parent.map_or(0, |parent| parent.generation);
    term.integer(&start.to_string());
    match parent {
        None => _ = term.integer("0"),
        Some(parent) => term.binary(parent.hash.as_bytes()),
    }
    term.json(body);
    attachments.write(&mut term);
    term.nil();
    Revision { generation: start + 1, hash: RevisionHash::Md5(Md5::digest(term.bytes()).into()) }
}

impl Digests<'_> {
    fn count(&self) -> usize {
        match self {
            Digests::Known(attachments) => attachments.len(),
            Digests::Undefined(count) => *count,
        }
    }

    /// Writes the list of attachments.
    fn write(&self, term: &mut Term) {
        if self.count() > 0 {
            term.list(self.count());
        }
        match self {
            // CouchDB folds from the left onto an empty list, so the last attachment comes first.
            Digests::Known(attachments) => attachments.iter().rev().for_each(|attachment| {
                term.tuple(3);
                term.binary(attachment.name.as_bytes());
                term.binary(attachment.content_type.as_bytes());
                term.binary(&attachment.md5);
            }),
            Digests::Undefined(count) => (0..*count).for_each(|_| {
                term.tuple(3);
                (0..3).for_each(|_| term.atom("undefined"));
            }),
        }
        term.nil();
    }
}

#[cfg(test)]
mod tests;
