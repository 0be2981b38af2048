//! The calls of a pass on a database of this server.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::blocking::blocking;
use super::failure::failure;
use super::feed::LocalFeed;
use super::{filter, read, write};
use crate::blocking::reading;
use crate::db::{CreateOptions, Database, LocalWrite};
use crate::error::Error;
use crate::replicate::Pending;
use crate::replicate::access::Access;
use crate::replicate::checkpoint::Stored;
use crate::replicate::failure::Failure;
use crate::replicate::parameters::Parameters;
use crate::replicate::peer::{About, Change, Document, Feed, Missing, Peer, Sink, Verdict};

/// A database of this server. Each call opens it again, and thereby checks that the user still may.
pub(crate) struct LocalPeer<'a> {
    access: &'a dyn Access,
    name: &'a str,
    parameters: &'a Parameters,
    /// Whether it is written: the target.
    is_target: bool,
}

impl<'a> LocalPeer<'a> {
    /// The database `name` as the source of a replication.
    pub fn source(access: &'a dyn Access, name: &'a str, parameters: &'a Parameters) -> LocalPeer<'a> {
        LocalPeer { access, name, parameters, is_target: false }
    }

    /// The database `name` as the target of a replication.
    pub fn target(access: &'a dyn Access, name: &'a str, parameters: &'a Parameters) -> LocalPeer<'a> {
        LocalPeer { access, name, parameters, is_target: true }
    }

    fn open(&self) -> Result<Arc<Database>, Failure> {
        let opened = if self.is_target { self.access.writable(self.name) } else { self.access.readable(self.name) };
        opened.map_err(|error| failure(self.name, error))
    }

    fn failure(&self, error: Error) -> Failure {
        failure(self.name, error)
    }
}

impl Peer for LocalPeer<'_> {
    fn about(&self) -> Pending<'_, Result<About, Failure>> {
        Box::pin(async {
            let database = self.open()?;
            let update_seq = database.last_sequence().into();
            Ok(About { instance: database.instance(), update_seq })
        })
    }

    fn create(&self) -> Pending<'_, Result<(), Failure>> {
        Box::pin(async {
            let options = create_options(&self.parameters.create_target_params)?;
            match self.access.create(self.name, options).await {
                Ok(()) | Err(Error::DatabaseExists) => Ok(()),
                Err(error @ (Error::IllegalDatabaseName(_) | Error::DatabaseNameTooLong(_) | Error::BadRequest(_))) => {
                    Err(Failure::CannotCreate(error.to_string()))
                }
                Err(error) => Err(self.failure(error)),
            }
        })
    }

    fn checkpoint<'a>(&'a self, id: &'a str) -> Pending<'a, Result<Option<Stored>, Failure>> {
        Box::pin(async move {
            let (database, id) = (self.open()?, id.to_owned());
            let read = reading(move || match database.local(&id) {
                Ok(record) => Ok(Some(record)),
                Err(Error::Missing) => Ok(None),
                Err(error) => Err(error),
            });
            let Some(record) = read.await.map_err(|error| self.failure(error))? else { return Ok(None) };
            // A document that is not a checkpoint counts as empty; the next checkpoint replaces it.
            let body: Map<String, Value> = crate::json::read(&record.json).unwrap_or_default();
            Ok(Some(Stored { rev: format!("0-{}", record.revision), body }))
        })
    }

    fn write_checkpoint<'a>(
        &'a self,
        id: &'a str,
        body: &'a Map<String, Value>,
        rev: Option<&'a str>,
    ) -> Pending<'a, Result<(), Failure>> {
        Box::pin(async move {
            let previous = rev.and_then(|rev| rev.strip_prefix("0-")).and_then(|number| number.parse().ok());
            let json = serde_json::to_string(body).unwrap_or_default();
            let written = self.open()?.write_local(id, LocalWrite::Put { json, previous }).await;
            written.map(|_| ()).map_err(|error| self.failure(error))
        })
    }

    fn feed<'a>(&'a self, since: Value) -> Pending<'a, Result<Box<dyn Feed + 'a>, Failure>> {
        Box::pin(async move {
            let database = self.open()?;
            let filter = filter::of(self.access, &database, self.parameters).await?;
            let feed = LocalFeed::new(self.access, self.name, database, filter, !self.parameters.winning_revs_only);
            Ok(Box::new(feed.after(&since)?) as Box<dyn Feed + 'a>)
        })
    }

    fn missing(&self, changes: Vec<Change>) -> Pending<'_, Result<Vec<Missing>, Failure>> {
        Box::pin(async move {
            let database = self.open()?;
            let wanted: Vec<_> = changes.into_iter().map(|change| (change.id, change.revisions)).collect();
            let missing = blocking(move || database.revisions_missing(&wanted)).await;
            let missing = missing.map_err(|error| self.failure(error))?.into_iter();
            Ok(missing.map(|(id, revisions, ancestors)| Missing { id, revisions, ancestors }).collect())
        })
    }

    fn fetch<'a>(&'a self, wanted: Vec<Missing>, sink: &'a mut dyn Sink) -> Pending<'a, Result<(), Failure>> {
        Box::pin(async move {
            let database = self.open()?;
            read::fetch(&database, wanted, sink).await.map_err(|error| match error {
                read::Stopped::Here(error) => self.failure(error),
                read::Stopped::There(failure) => failure,
            })
        })
    }

    fn write(&self, documents: Vec<Document>) -> Pending<'_, Result<Vec<Verdict>, Failure>> {
        Box::pin(async move {
            let database = self.open()?;
            write::write(self.access, &database, documents).await.map_err(|error| self.failure(error))
        })
    }

    /// What was written is durable already.
    fn commit(&self) -> Pending<'_, Result<(), Failure>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The options of a new target.
fn create_options(params: &Map<String, Value>) -> Result<CreateOptions, Failure> {
    let default = CreateOptions::default();
    let number = |name: &str, default: u32| match params.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => {
            let number = value.as_u64().filter(|number| (1..=1024).contains(number));
            let wrong = || Failure::CannotCreate(format!("The `{name}` value should be a positive integer."));
            number.map(|number| number as u32).ok_or_else(wrong)
        }
    };
    let partitioned = match params.get("partitioned") {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(_) => return Err(Failure::CannotCreate("Invalid `partitioned` parameter".into())),
    };
    Ok(CreateOptions { partitioned, q: number("q", default.q)?, n: number("n", default.n)? })
}
