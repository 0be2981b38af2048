//! One end of a replication, as a pass sees it: a database here, or one of another server.

use serde_json::{Map, Value};

use super::Pending;
use super::checkpoint::Stored;
use super::failure::Failure;
use super::memory::Held;
use crate::db::record::Attachment;
use crate::rev::{Revision, RevisionHash};
use crate::store::blob::blobs::Pin;

/// A document on its way: one revision with its history.
pub(crate) struct Document {
    pub id: String,
    /// Generation and hashes of the revision and its ancestors, the newest first; never empty.
    pub path: (u64, Vec<RevisionHash>),
    pub deleted: bool,
    /// The body: compact JSON text without members that start with `_`.
    pub json: String,
    pub attachments: Vec<Attached>,
    /// Its share of the memory for documents on their way.
    pub held: Option<Held>,
}

/// An attachment of a document on its way.
pub(crate) struct Attached {
    /// Describes it. `blob` counts only with [`Content::Blob`].
    pub about: Attachment,
    pub content: Content,
}

/// Where the content of an attachment is.
pub(crate) enum Content {
    /// In the blob store of this server.
    Blob(Pin),
    /// Left out: the target has it, with the ancestor that it was asked for.
    Stub,
}

impl Document {
    /// Its revision.
    pub fn revision(&self) -> Revision {
        let hash = self.path.1.first().cloned().unwrap_or_else(|| RevisionHash::Text("".into()));
        Revision { generation: self.path.0, hash }
    }

    /// Bytes that it takes in memory: about this many.
    pub fn bytes(&self) -> usize {
        let attachments: usize = self.attachments.iter().map(|attached| 200 + attached.about.name.len()).sum();
        200 + self.id.len() + self.json.len() + 40 * self.path.1.len() + attachments
    }

    /// Whether it brings the content of attachments.
    pub fn has_contents(&self) -> bool {
        self.attachments.iter().any(|attached| matches!(attached.content, Content::Blob(_)))
    }

    /// Whether it leaves out attachments that the target should have.
    pub fn has_stubs(&self) -> bool {
        self.attachments.iter().any(|attached| matches!(attached.content, Content::Stub))
    }

    /// Whether the history has this revision.
    pub fn descends_from(&self, revision: &Revision) -> bool {
        let steps = self.path.0.checked_sub(revision.generation).and_then(|steps| usize::try_from(steps).ok());
        steps.and_then(|steps| self.path.1.get(steps)) == Some(&revision.hash)
    }
}

/// What a peer says of its database.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct About {
    /// `instance_start_time`: changes when the database was created again, or its server was restarted without
    /// its last writes. `"0"` where the peer says nothing.
    pub instance: String,
    /// The last sequence: text or a number.
    pub update_seq: Value,
}

/// A document's changed leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub id: String,
    pub revisions: Vec<Revision>,
}

/// Some changes, in the source's order.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub changes: Vec<Change>,
    /// The sequence after which the next page starts.
    pub through: Value,
    /// Changes after this page; `None` if the source does not say.
    pub pending: Option<u64>,
    /// Whether the source has, as of this page, nothing more.
    pub is_last: bool,
}

/// Revisions of a document that the target does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    pub id: String,
    pub revisions: Vec<Revision>,
    /// Leaves of the target that may be their ancestors.
    pub ancestors: Vec<Revision>,
}

/// Reads the changes of a source, page by page.
pub(crate) trait Feed: Send {
    /// The next page, of at most about `most` changes. With `wait`, waits until there is a change; a page may
    /// be empty nevertheless.
    fn next(&mut self, most: usize, wait: bool) -> Pending<'_, Result<Page, Failure>>;
}

/// Takes the documents that a source delivers.
pub(crate) trait Sink: Send {
    /// Takes a document, and waits until there is room for the next one.
    fn deliver(&mut self, document: Document) -> Pending<'_, Result<(), Failure>>;

    /// Waits until others wait for the memory of documents that were taken and are not written yet.
    fn wanted(&self) -> Pending<'_, ()>;

    /// Writes these documents.
    fn flush(&mut self) -> Pending<'_, Result<(), Failure>>;

    /// A revision that the source does not hand over, or that no target can take: counted and passed over.
    fn pass_over(&mut self, id: &str, revision: &Revision, why: &str);

    /// Counts requests of `_bulk_get`, and the documents that they returned.
    fn count_bulk_get(&mut self, attempts: u64, documents: u64);
}

/// What became of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Written,
    /// The target does not take it, now or later.
    Refused(String),
    /// The target does not have the content of an attachment that was left out.
    MissingStub,
}

/// One end of a replication.
pub(crate) trait Peer: Send + Sync {
    /// Reads what the peer says of its database.
    fn about(&self) -> Pending<'_, Result<About, Failure>>;

    /// Creates the database if it does not exist.
    fn create(&self) -> Pending<'_, Result<(), Failure>>;

    /// Reads the checkpoint `_local/<id>`.
    fn checkpoint<'a>(&'a self, id: &'a str) -> Pending<'a, Result<Option<Stored>, Failure>>;

    /// Writes the checkpoint `_local/<id>` over the revision `rev`.
    fn write_checkpoint<'a>(
        &'a self,
        id: &'a str,
        body: &'a Map<String, Value>,
        rev: Option<&'a str>,
    ) -> Pending<'a, Result<(), Failure>>;

    /// Starts to read changes after `since`.
    fn feed<'a>(&'a self, since: Value) -> Pending<'a, Result<Box<dyn Feed + 'a>, Failure>>;

    /// Finds which of these revisions the database does not have.
    fn missing(&self, changes: Vec<Change>) -> Pending<'_, Result<Vec<Missing>, Failure>>;

    /// Reads revisions with their histories, as far as possible the newest ones that descend from them.
    fn fetch<'a>(&'a self, wanted: Vec<Missing>, sink: &'a mut dyn Sink) -> Pending<'a, Result<(), Failure>>;

    /// Writes documents. Returns one verdict for each, in order.
    fn write(&self, documents: Vec<Document>) -> Pending<'_, Result<Vec<Verdict>, Failure>>;

    /// Makes all that was written durable.
    fn commit(&self) -> Pending<'_, Result<(), Failure>>;
}
