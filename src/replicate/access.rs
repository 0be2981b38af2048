//! The rights of a job's user on databases here. Implemented in a higher layer, which knows accounts, `_security`
//! and the rules of documents (`policy::replication_access`).

use std::sync::Arc;

use super::Pending;
use crate::db::{CreateOptions, Database, Incoming};
use crate::error::Result;
use crate::query::script::Scripts;
use crate::rev::Revision;
use crate::store::blob::blobs::Blobs;

/// The rights of one user, asked again during the job: a right that is taken away ends the job.
pub trait Access: Send + Sync {
    /// Opens a database that the job reads. Called for each page of changes.
    ///
    /// # Errors
    /// `NoDatabase`, `Unauthorized`, `Forbidden`.
    fn readable(&self, name: &str) -> Result<Arc<Database>>;

    /// Opens a database that the job writes.
    ///
    /// # Errors
    /// `NoDatabase`, `Unauthorized`, `Forbidden`.
    fn writable(&self, name: &str) -> Result<Arc<Database>>;

    /// Creates a database.
    ///
    /// # Errors
    /// `DatabaseExists`, `Unauthorized`, `Forbidden`, `IllegalDatabaseName`.
    fn create<'a>(&'a self, name: &'a str, options: CreateOptions) -> Pending<'a, Result<()>>;

    /// Writes revisions with their histories (`new_edits: false`), after validation and with all rules that
    /// hold for the user. One result for each edit, in order. They are durable when this returns.
    ///
    /// # Errors
    /// For the whole call, with nothing written: `MissingStub`, `Unauthorized`, `Again`, or of the store.
    fn write<'a>(
        &'a self,
        database: &'a Arc<Database>,
        edits: Vec<Incoming>,
    ) -> Pending<'a, Result<Vec<Result<Revision>>>>;

    /// The limits of documents here.
    fn limits(&self) -> Limits;

    /// The user context that filter functions receive, as JSON.
    fn user_json(&self, database: &str) -> String;

    /// Where attachments on their way are kept, also between two other servers.
    fn blobs(&self) -> &Arc<dyn Blobs>;

    /// Runs filter functions.
    fn scripts(&self) -> &Scripts;
}

/// The largest document that is accepted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a body.
    pub document: usize,
    /// How deeply arrays and objects may nest.
    pub depth: usize,
    /// Bytes of an id.
    pub id: usize,
    /// Bytes of an attachment.
    pub attachment: u64,
}
