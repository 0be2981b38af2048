//! The hook that validates edits before they are written.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::db::Database;
use crate::db::commit::prepared_edit::Leaf;
use crate::error::Result;
use crate::rev::Revision;

/// What `validate_doc_update` functions receive of one edit: whole documents as JSON text.
pub struct Proposal {
    pub id: String,
    /// The document as the edit would leave it.
    pub new: String,
    /// The nearest stored revision that the edit extends; `None` if there is none.
    pub old: Option<String>,
    /// The revision that the edit claims to extend.
    pub parent: Option<Revision>,
    /// The document's leaves when the proposal was made.
    pub leaves: Vec<Leaf>,
}

/// Conditions beyond the revision that the writer checks at the commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// The edit is a conflict unless the document still has the leaves that the proposal showed, so that the
    /// validation's verdict still applies when the edit is written. Only the parent is taken from a
    /// replicated edit's history.
    pub unmoved: bool,
    /// An interactive edit that deletes the winner also deletes all other leaves, so that no conflicting
    /// revision becomes the winner.
    pub deletes_all: bool,
}

/// The hook for `validate_doc_update` and other checks that may refuse an edit before it reaches the writer.
pub trait Validate: Send + Sync {
    /// Whether this hook validates edits of `database` now. If not, only design documents get a [`Proposal`].
    fn applies(&self, database: &Database) -> bool;

    /// The terms for edits of `database`. Terms other than the default apply only if [`Validate::applies`]
    /// returns true. This function and `guard` have no default implementation, because a hook that wraps
    /// another one would silently drop the inner hook's terms.
    fn terms(&self, database: &Database) -> Terms;

    /// Creates the check that the writer runs just before it applies the edits.
    fn guard(&self, database: &Arc<Database>) -> Option<Box<dyn Guard>>;

    /// Returns one verdict for each proposal, in order.
    fn validate<'a>(
        &'a self,
        database: &'a Arc<Database>,
        proposals: Vec<Proposal>,
    ) -> Pin<Box<dyn Future<Output = Vec<Result<()>>> + Send + 'a>>;
}

/// Re-checks that edits may still be written. The writer calls it on its thread: edits may wait for the
/// writer for seconds, and the client may lose its authorization meanwhile.
pub trait Guard: Send {
    /// # Errors
    /// An error fails the whole call, and none of its edits is written.
    fn check(&self) -> Result<()>;

    /// As [`Guard::check`], if that neither reads the store nor waits; otherwise `None`.
    fn check_at_once(&self) -> Option<Result<()>> {
        None
    }
}

/// A hook that allows everything.
pub struct AllowAll;

impl Validate for AllowAll {
    fn applies(&self, _: &Database) -> bool {
        false
    }

    fn terms(&self, _: &Database) -> Terms {
        Terms::default()
    }

    fn guard(&self, _: &Arc<Database>) -> Option<Box<dyn Guard>> {
        None
    }

    fn validate<'a>(
        &'a self,
        _: &'a Arc<Database>,
        proposals: Vec<Proposal>,
    ) -> Pin<Box<dyn Future<Output = Vec<Result<()>>> + Send + 'a>> {
        Box::pin(std::future::ready(proposals.iter().map(|_| Ok(())).collect()))
    }
}
