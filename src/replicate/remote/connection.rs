//! The state that the calls of a pass on another server share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

use super::requester::{Ask, Requester};
use crate::replicate::access::Limits;
use crate::replicate::failure::Failure;
use crate::replicate::peer::About;
use crate::store::blob::blobs::Blobs;

/// How long `_bulk_get` is left alone after it has failed for most documents, as in CouchDB.
const LEFT_ALONE: Duration = Duration::from_secs(37);
/// Answers with large documents that are read at the same time.
const LARGE_AT_ONCE: usize = 2;
/// Bytes of an answer that says little.
pub(super) const SMALL: usize = 1 << 20;

/// A database of another server.
pub(super) struct Connection<'a> {
    pub requester: Requester<'a>,
    /// Where attachments on their way are.
    pub blobs: Arc<dyn Blobs>,
    pub limits: Limits,
    /// Permits for answers with large documents.
    pub large: Semaphore,
    /// The server has no `_bulk_get`.
    no_bulk_get: AtomicBool,
    /// It is left alone until then.
    bulk_get_from: Mutex<Option<Instant>>,
    /// Whether the server reads compressed attachments; asked once.
    reads_compressed: OnceCell<bool>,
}

impl<'a> Connection<'a> {
    pub fn new(requester: Requester<'a>, blobs: Arc<dyn Blobs>, limits: Limits) -> Connection<'a> {
        let no_bulk_get = AtomicBool::new(!requester.parameters.use_bulk_get);
        Connection {
            requester,
            blobs,
            limits,
            large: Semaphore::new(LARGE_AT_ONCE),
            no_bulk_get,
            bulk_get_from: Mutex::default(),
            reads_compressed: OnceCell::new(),
        }
    }

    /// Whether to ask for documents by `_bulk_get`.
    pub fn uses_bulk_get(&self) -> bool {
        let waits = || self.bulk_get_from.lock().is_some_and(|from| from > Instant::now());
        !self.no_bulk_get.load(Ordering::Relaxed) && !waits()
    }

    /// The server has no `_bulk_get`.
    pub fn give_up_bulk_get(&self) {
        self.no_bulk_get.store(true, Ordering::Relaxed);
    }

    /// It fails: tried again later.
    pub fn leave_bulk_get(&self) {
        *self.bulk_get_from.lock() = Some(Instant::now() + LEFT_ALONE);
    }

    /// The most bytes of a document's JSON with its history and attachments: a rough bound, the exact one is that
    /// of the body.
    pub fn largest_text(&self) -> usize {
        self.limits.document.saturating_mul(2).saturating_add(1 << 20)
    }

    /// Whether the server reads attachments that are sent compressed, as CouchDB and settee do. PouchDB Server would
    /// take the compressed bytes for the content.
    pub async fn reads_compressed(&self) -> bool {
        let ask = async {
            let answer = self.requester.fetch(&Ask::server(), SMALL).await;
            let about: Option<Value> = answer.ok().and_then(|(_, body)| serde_json::from_slice(&body).ok());
            about.is_some_and(|about| about["couchdb"] == "Welcome")
        };
        *self.reads_compressed.get_or_init(|| ask).await
    }

    /// Documents of one batch that are read at the same time.
    pub fn reads_at_once(&self) -> usize {
        let parameters = self.requester.parameters;
        (parameters.http_connections / parameters.worker_processes.max(1)).clamp(1, 10)
    }

    /// Reads what the server says of the database.
    pub async fn read_about(&self) -> Result<About, Failure> {
        let url = &self.requester.endpoint.url;
        let (status, body) = self.requester.fetch(&Ask { is_beside: true, ..Ask::get("") }, SMALL).await?;
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(Failure::DbNotFound(format!("{url}/"))),
            _ => return Err(self.requester.failure_of(status, &body)),
        }
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !body.is_object() || body.get("db_name").is_none() {
            return Err(Failure::Protocol(format!("{url} is not a database")));
        }
        let instance = match &body["instance_start_time"] {
            Value::String(text) => text.clone(),
            Value::Null => "0".to_owned(),
            other => other.to_string(),
        };
        Ok(About { instance, update_seq: body["update_seq"].clone() })
    }
}
