//! The calls of a pass on a database of another server.

use http::{Method, StatusCode};
use serde_json::{Map, Value};

use super::changes::RemoteFeed;
use super::connection::{Connection, SMALL};
use super::requester::{Ask, Requester};
use super::text::document_path;
use super::{documents, writes};
use crate::replicate::Pending;
use crate::replicate::checkpoint::Stored;
use crate::replicate::context::Context;
use crate::replicate::failure::Failure;
use crate::replicate::parameters::{Parameters, RemoteEndpoint};
use crate::replicate::peer::{About, Change, Document, Feed, Missing, Peer, Sink, Verdict};

/// A database of another server.
pub(crate) struct RemotePeer<'a>(Connection<'a>);

impl<'a> RemotePeer<'a> {
    /// Connects to nothing yet.
    pub fn new(
        context: &'a Context,
        endpoint: &'a RemoteEndpoint,
        parameters: &'a Parameters,
        is_target: bool,
    ) -> Result<RemotePeer<'a>, Failure> {
        let requester = Requester::new(context, endpoint, parameters, is_target)?;
        let (blobs, limits) = (context.access.blobs().clone(), context.access.limits());
        Ok(RemotePeer(Connection::new(requester, blobs, limits)))
    }

    /// Reads a design document as JSON; `None` if there is none.
    pub async fn design(&self, name: &str) -> Result<Option<Map<String, Value>>, Failure> {
        self.document(&document_path(&format!("_design/{name}"))).await
    }

    async fn document(&self, path: &str) -> Result<Option<Map<String, Value>>, Failure> {
        let (status, body) = self.0.requester.fetch(&Ask { is_beside: true, ..Ask::get(path) }, 8 * SMALL).await?;
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(self.0.requester.failure_of(status, &body)),
        }
        let body = serde_json::from_slice(&body);
        body.map(Some)
            .map_err(|_| Failure::Protocol(format!("{}{path} is not a document", self.0.requester.endpoint.url)))
    }
}

impl Peer for RemotePeer<'_> {
    fn about(&self) -> Pending<'_, Result<About, Failure>> {
        Box::pin(self.0.read_about())
    }

    fn create(&self) -> Pending<'_, Result<(), Failure>> {
        Box::pin(writes::create(&self.0))
    }

    fn checkpoint<'a>(&'a self, id: &'a str) -> Pending<'a, Result<Option<Stored>, Failure>> {
        Box::pin(async move {
            let Some(mut body) = self.document(&format!("/_local/{id}")).await? else { return Ok(None) };
            let Some(Value::String(rev)) = body.remove("_rev") else {
                return Err(Failure::Protocol("a checkpoint has no revision".into()));
            };
            body.remove("_id");
            Ok(Some(Stored { rev, body }))
        })
    }

    fn write_checkpoint<'a>(
        &'a self,
        id: &'a str,
        body: &'a Map<String, Value>,
        rev: Option<&'a str>,
    ) -> Pending<'a, Result<(), Failure>> {
        Box::pin(async move {
            let mut document = body.clone();
            document.insert("_id".into(), format!("_local/{id}").into());
            if let Some(rev) = rev {
                document.insert("_rev".into(), rev.into());
            }
            let ask = Ask::with(Method::PUT, format!("/_local/{id}"), Value::Object(document).to_string());
            let ask = Ask { is_beside: true, ..ask };
            let (status, body) = self.0.requester.fetch(&ask, SMALL).await?;
            match status {
                StatusCode::CREATED | StatusCode::ACCEPTED | StatusCode::OK => {
                    self.0.requester.check_done(status, &body)
                }
                _ => Err(self.0.requester.failure_of(status, &body)),
            }
        })
    }

    fn feed<'a>(&'a self, since: Value) -> Pending<'a, Result<Box<dyn Feed + 'a>, Failure>> {
        let feed: Box<dyn Feed + 'a> = Box::new(RemoteFeed::new(&self.0.requester, since));
        Box::pin(std::future::ready(Ok(feed)))
    }

    fn missing(&self, changes: Vec<Change>) -> Pending<'_, Result<Vec<Missing>, Failure>> {
        Box::pin(writes::revs_diff(&self.0, changes))
    }

    fn fetch<'a>(&'a self, wanted: Vec<Missing>, sink: &'a mut dyn Sink) -> Pending<'a, Result<(), Failure>> {
        Box::pin(documents::fetch(&self.0, wanted, sink))
    }

    fn write(&self, documents: Vec<Document>) -> Pending<'_, Result<Vec<Verdict>, Failure>> {
        Box::pin(writes::write(&self.0, documents))
    }

    fn commit(&self) -> Pending<'_, Result<(), Failure>> {
        Box::pin(writes::ensure_full_commit(&self.0))
    }
}
