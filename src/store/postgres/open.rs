//! Opens the store in a database, and creates the store if it does not exist.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::address::Address;
use super::blobs::{self, PostgresBlobs};
use super::connections::{Connections, failed_call, settings};
use super::errors::text;
use super::runtime::Threads;
use super::schema::{Refused, VERSION, is_filling, is_there, mark_filling, settle};
use super::store::PostgresStore;
use super::warnings::standing;
use super::{slot, supervision, tls};
use crate::store::blob::blobs::Blobs;
use crate::store::crypto::cipher::{Envelope, FolderKeys};
use crate::store::crypto::master_key::Key;
use crate::store::embedded::data_folder::FORMAT;
use crate::store::embedded::frame::Frames;
use crate::store::{Batch, Store, StoreError, keyspace};

/// The pause between two sweeps of old slots and uploads.
const SWEEP: Duration = Duration::from_secs(3600);

/// Opening fails if the server does not answer within this time.
const CONNECT: Duration = Duration::from_secs(20);

/// How to open the store.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The key of an encrypted store. A new store is encrypted if a key is given.
    pub key: Option<Key>,
    /// The store must exist.
    pub existing: bool,
    /// The caller fills a new store, which others refuse to open until [`Shared::finish`] is called.
    pub filling: bool,
}

/// An open store.
pub struct Shared {
    pub store: Arc<dyn Store>,
    pub blobs: Arc<dyn Blobs>,
    /// Settings of the server that can lose an acknowledged write: sentences for the log.
    pub warnings: Vec<String>,
    /// The server's version and durability settings: a line for the log.
    pub about: String,
    /// The id of the key under which the store is encrypted.
    pub encrypted_under: Option<String>,
    connections: Connections,
    threads: Arc<Threads>,
}

impl Shared {
    /// What tests inject and count on the connections.
    #[cfg(test)]
    pub(super) fn probe(&self) -> &super::connections::Probe {
        &self.connections.probe
    }

    /// Ends the filling of a new store.
    pub fn finish(&self) -> crate::store::Result<()> {
        let connections = self.connections.clone();
        self.threads.wait(async move {
            let client = connections.get().await?;
            match connections.guarded(&client, mark_filling(&client, &connections.address.schema, false)).await {
                Some(Ok(())) => Ok(()),
                ended => {
                    client.close();
                    Err(failed_call(ended))
                }
            }
        })
    }
}

/// Why a store could not be opened. The texts tell the user what to do, and hold no password.
#[derive(Debug)]
pub enum PostgresError {
    /// The server cannot be reached, or has refused something.
    Server { at: String, error: String },
    /// The role may not make or upgrade the tables.
    NoRight { at: String, sql: String },
    /// A newer settee made the tables.
    Newer { at: String, has: i32 },
    /// There is no store, and there must be one.
    None(String),
    /// There is a store, and there must be none.
    NotEmpty(String),
    /// A restore was filling the store and was interrupted. `schema` is quoted as in SQL.
    Unfinished { at: String, schema: String },
    /// The key is missing, wrong or needless.
    Key(String),
    /// A setting cannot be used.
    Setting(String),
}

impl fmt::Display for PostgresError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PostgresError::Server { at, error } => write!(out, "the store {at} cannot be opened: {error}"),
            PostgresError::NoRight { at, sql } => write!(
                out,
                "the store {at} has no tables of version {VERSION}, and this role may not make or upgrade them. Let an owner \
                 of the database run\n\n    {sql}\n\nand start again"
            ),
            PostgresError::Newer { at, has } => write!(
                out,
                "the store {at} has version {has}, and this settee knows versions up to {VERSION}: use the newer settee \
                 that made it"
            ),
            PostgresError::None(at) => write!(out, "there is no settee store in {at}"),
            PostgresError::NotEmpty(at) => {
                write!(out, "the store {at} is not empty: name another schema, as in ?schema=settee_2")
            }
            PostgresError::Unfinished { at, schema } => write!(
                out,
                "the store {at} is not whole: the command that filled it was cut off. Remove it with DROP SCHEMA {schema} \
                 CASCADE, and restore or convert again"
            ),
            PostgresError::Key(why) | PostgresError::Setting(why) => out.write_str(why),
        }
    }
}

impl std::error::Error for PostgresError {}

/// Opens the store at `address`. Blocks.
pub fn open(address: Address, options: &Options) -> Result<Shared, PostgresError> {
    crate::blocking::reads_wait_for_a_network();
    let at = address.to_string();
    let server = |error: String| PostgresError::Server { at: at.clone(), error };
    let threads = Arc::new(Threads::start().map_err(|error| server(format!("no threads: {error}")))?);
    let connector = tls::connector(&address).map_err(PostgresError::Setting)?;
    let connections = Connections::new(address, connector);
    let (asked, how, place) = (connections.clone(), options.clone(), at.clone());
    let settled = threads.wait(async move { Ok(tables(&asked, &how, &place).await) });
    settled.map_err(|error| server(error.to_string()))??;
    let plain = PostgresStore::new(connections.clone(), threads.clone(), Frames::default(), false);
    let (keys, encrypted_under) = keys(&plain, options.key.as_ref(), &at)?;
    let frames = keys.as_ref().map_or_else(Frames::default, |keys| Frames::sealing(keys.comparable_values()));
    let store = PostgresStore::new(connections.clone(), threads.clone(), frames, keys.is_some());
    drop(plain);
    let asked = connections.clone();
    let found = threads.wait(async move { standing(&asked).await }).map_err(|error| server(error.to_string()))?;
    let (sweeping, watching) = (connections.clone(), connections.clone());
    threads.handle().spawn(async move { sweep(sweeping).await });
    threads.handle().spawn(async move { supervision::watch(watching).await });
    let attachments = keys.as_ref().map(FolderKeys::attachments);
    let blobs = PostgresBlobs::new(connections.clone(), threads.clone(), attachments);
    Ok(Shared {
        store: Arc::new(store),
        blobs: Arc::new(blobs),
        warnings: found.warnings,
        about: found.about,
        encrypted_under,
        connections,
        threads,
    })
}

/// Makes or upgrades the tables, on a connection of its own.
async fn tables(connections: &Connections, options: &Options, at: &str) -> Result<(), PostgresError> {
    let server = |error: &tokio_postgres::Error| PostgresError::Server { at: at.to_owned(), error: text(error) };
    let address = &connections.address;
    let connected = tokio::time::timeout(CONNECT, connections.hosts.connect()).await;
    let silent = |_| PostgresError::Server { at: at.to_owned(), error: "no server answers".to_owned() };
    let (mut client, connection) = connected.map_err(silent)?.map_err(|error| server(&error))?;
    let driver = tokio::spawn(connection);
    let made = async {
        let there = is_there(&client, &address.schema).await?;
        if options.existing && !there {
            return Ok(Found::None);
        }
        if options.filling && there {
            return Ok(Found::Store);
        }
        client.batch_execute(&settings(address)).await?;
        settle(&mut client, &address.schema).await?;
        if options.filling {
            mark_filling(&client, &address.schema, true).await?;
        } else if is_filling(&client, &address.schema).await? {
            return Ok(Found::Unfinished);
        }
        Ok(Found::Ready)
    }
    .await;
    driver.abort();
    match made {
        Ok(Found::Ready) => Ok(()),
        Ok(Found::None) => Err(PostgresError::None(at.to_owned())),
        Ok(Found::Store) => Err(PostgresError::NotEmpty(at.to_owned())),
        Ok(Found::Unfinished) => {
            Err(PostgresError::Unfinished { at: at.to_owned(), schema: address.schema.to_string() })
        }
        Err(Refused::Failed(error)) => Err(server(&error)),
        Err(Refused::NoRight(sql)) => Err(PostgresError::NoRight { at: at.to_owned(), sql }),
        Err(Refused::Newer(has)) => Err(PostgresError::Newer { at: at.to_owned(), has }),
        Err(Refused::OldServer(version)) => Err(PostgresError::Server {
            at: at.to_owned(),
            error: format!("the server is PostgreSQL {version}, and settee needs 12 or newer"),
        }),
    }
}

/// The state of the store in the database.
enum Found {
    Ready,
    None,
    /// There is a store, and there must be none.
    Store,
    Unfinished,
}

type Keys = (Option<FolderKeys>, Option<String>);

/// The keys of the store, from its format record. Creates a missing record: of several nodes that do so, one wins.
fn keys(store: &PostgresStore, key: Option<&Key>, at: &str) -> Result<Keys, PostgresError> {
    let server = |error: StoreError| PostgresError::Server { at: at.to_owned(), error: error.to_string() };
    loop {
        if let Some(record) = store.get(keyspace::FORMAT).map_err(server)? {
            return opened(&record, key, at);
        }
        let mut record = FORMAT.to_be_bytes().to_vec();
        if let Some(key) = key {
            record.extend_from_slice(FolderKeys::generate().envelope(key).to_string().as_bytes());
        }
        let mut batch = Batch::new();
        batch.expect(keyspace::FORMAT.to_vec(), None);
        batch.put(keyspace::FORMAT.to_vec(), record);
        match store.commit(batch) {
            Ok(()) | Err(StoreError::Conflict) => {}
            Err(error) => return Err(server(error)),
        }
    }
}

fn opened(record: &[u8], key: Option<&Key>, at: &str) -> Result<Keys, PostgresError> {
    let damaged = || PostgresError::Server { at: at.to_owned(), error: "its format record is damaged".to_owned() };
    let (format, envelope) = record.split_first_chunk().ok_or_else(damaged)?;
    if u32::from_be_bytes(*format) > FORMAT {
        return Err(PostgresError::Newer { at: at.to_owned(), has: u32::from_be_bytes(*format) as i32 });
    }
    let envelope = std::str::from_utf8(envelope).map_err(|_| damaged())?;
    let envelope = match envelope.split_once(' ') {
        None if envelope.is_empty() => None,
        None => return Err(damaged()),
        Some((key, sealed)) => Some(Envelope { key: key.to_owned(), sealed: sealed.to_owned() }),
    };
    match (envelope, key) {
        (None, None) => Ok((None, None)),
        (None, Some(_)) => Err(PostgresError::Key(format!(
            "the store {at} is not encrypted, but an encryption key was given: start without a key, or restore a backup \
             into a new schema"
        ))),
        (Some(envelope), None) => Err(PostgresError::Key(format!(
            "the store {at} is encrypted: name the file with the key {} by --encryption-key-file, or put the key into \
             SETTEE_ENCRYPTION_KEY",
            envelope.key
        ))),
        (Some(envelope), Some(key)) if envelope.key != key.id() => Err(PostgresError::Key(format!(
            "the store {at} is encrypted under the key {}, and the one given is {}",
            envelope.key,
            key.id()
        ))),
        (Some(envelope), Some(key)) => {
            let keys = envelope.open(key).ok_or_else(damaged)?;
            Ok((Some(keys), Some(envelope.key)))
        }
    }
}

/// Regularly removes the slots and unfinished uploads of nodes that ended long ago.
async fn sweep(connections: Connections) {
    loop {
        tokio::time::sleep(SWEEP).await;
        for swept in [slot::sweep(&connections).await, blobs::sweep(&connections).await] {
            if let Err(error) = swept {
                tracing::debug!("what ended nodes have left could not be removed: {error}");
            }
        }
    }
}
