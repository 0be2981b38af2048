//! What a document contributes to the counts in its database's info record.

use crate::db::conflicted::Conflicted;
use crate::rev::Tree;

/// What one document contributes to the database's counters.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    /// 1 if the winner is not deleted, else 0.
    pub live: u64,
    /// 1 if the winner is deleted, else 0.
    pub deleted: u64,
    /// Bytes of the leaves' bodies, with their attachments.
    pub leaf_bytes: u64,
    /// Leaves that are not deleted.
    open: u64,
    pub(crate) all_bytes: u64,
    /// A deletion was made beside an edit.
    deletion_beside: bool,
}

impl Tally {
    /// Counts a revision tree.
    pub fn of(tree: &Tree) -> Tally {
        let (mut tally, mut closed) = (Tally::default(), false);
        match tree.winner() {
            None => {}
            Some(winner) if winner.deleted => tally.deleted = 1,
            Some(_) => tally.live = 1,
        }
        for node in tree.nodes() {
            let bytes = node.body.map_or(0, |body| body.bytes);
            tally.all_bytes += bytes;
            if node.is_leaf() {
                tally.leaf_bytes += bytes;
                tally.open += u64::from(!node.deleted);
                closed |= node.deleted;
            }
        }
        tally.deletion_beside = closed && tally.open > 0 && tree.has_deletion_beside_edit();
        tally
    }

    /// Whether the document is conflicted in this way.
    pub(crate) fn is(&self, kind: Conflicted) -> bool {
        match kind {
            Conflicted::Edits => self.open > 1,
            Conflicted::Deletion => self.deletion_beside,
        }
    }

    /// Whether the document has fewer leaf bytes or fewer open leaves than in `was`, and no more of the
    /// other.
    pub(crate) fn is_less_than(&self, was: &Tally) -> bool {
        let fewer = self.open < was.open && self.leaf_bytes <= was.leaf_bytes;
        fewer || (self.open <= was.open && self.leaf_bytes < was.leaf_bytes)
    }
}

/// Changes a counter by the change of what one document contributes to it.
pub(crate) fn shift(counter: &mut u64, was: u64, is: u64) {
    *counter = (*counter + is).saturating_sub(was);
}
