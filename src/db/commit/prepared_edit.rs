//! An edit that is ready for the writer: parsed, validated, its attachments stored.

use crate::db::record::{Attachment, BodyRecord};
use crate::rev::{AttachmentDigest, Body, Digests, Revision, RevisionHash, Tree, new_revision};
use crate::store::blob::blobs::Pin;

/// How an edit relates to the stored revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A user's edit: must extend a leaf, and creates a new revision.
    Interactive,
    /// `new_edits=false`: brings an existing revision with its ancestors, which are merged into the tree.
    Replicated,
}

/// A leaf as a [`Proposal`](crate::db::Proposal) shows it. The writer compares it with the current leaf. The
/// position of the body distinguishes a revision from one that was purged and then written again with other
/// content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    pub revision: Revision,
    pub deleted: bool,
    body: Option<Body>,
}

impl Leaf {
    pub(crate) fn all(tree: &Tree) -> Vec<Leaf> {
        let leaf =
            |node: &crate::rev::Node| Leaf { revision: node.revision.clone(), deleted: node.deleted, body: node.body };
        tree.nodes().iter().filter(|node| node.is_leaf()).map(leaf).collect()
    }
}

/// An edit that is prepared for the writer.
pub struct Edit {
    pub id: String,
    pub(crate) parent: Option<Revision>,
    pub(crate) path: (u64, Vec<RevisionHash>),
    pub(crate) deleted: bool,
    pub(crate) body: BodyRecord,
    /// With [`Terms::unmoved`](crate::db::Terms::unmoved): the leaves that the proposal showed.
    pub(crate) seen: Option<Vec<Leaf>>,
    /// See [`Terms::deletes_all`](crate::db::Terms::deletes_all).
    pub(crate) deletes_all: bool,
    /// A parent and the revision computed for it, so that the writer need not hash if the parent turns out to
    /// be the same.
    pub(crate) made: Option<(Option<Revision>, Revision)>,
    /// Protect the blobs from the sweep until the commit that refers to them has returned.
    pub(crate) _pins: Vec<Pin>,
}

impl Edit {
    /// The revision that the edit creates on `parent`, which is a tombstone if the edit named none.
    pub(crate) fn revision_on(&self, parent: Option<&Revision>) -> Revision {
        let known = digests(&self.body.attachments);
        let attachments = match parent.is_some() && self.parent.is_none() {
            true => Digests::Undefined(known.len()),
            false => Digests::Known(&known),
        };
        new_revision(self.deleted, parent, &self.body.json, attachments)
    }
}

pub(crate) fn digests(attachments: &[Attachment]) -> Vec<AttachmentDigest<'_>> {
    attachments
        .iter()
        .map(|attachment| AttachmentDigest {
            name: &attachment.name,
            content_type: &attachment.content_type,
            md5: attachment.md5,
        })
        .collect()
}
