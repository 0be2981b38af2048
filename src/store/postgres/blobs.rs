//! Attachments in the database: the bytes of a blob file (see `blob::file_format`) in pieces of 256 KiB.
//!
//! An upload gets a random number. Its pieces are written under that number, and the end of the upload records the
//! blob's id; until then no reader sees the blob. If the id exists already, the new pieces are dropped.
//!
//! Nodes do not know of each other's pins. A blob is removed only if no body refers to it and no node has *used* it for
//! some time: writing it, or reusing it in a new revision, records the time of the server. A node also records it
//! regularly for the blobs that its own requests have pinned.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::Duration;

use md5::{Digest, Md5};
use sha2::Sha256;

use super::connection::Connection;
use super::connections::{Connections, Parameters, failed_call};
use super::measured_size::MeasuredSize;
use super::runtime::Threads;
use crate::hex::hex;
use crate::store::blob::blobs::{BlobId, BlobWriter, Blobs, Pin, Pins, Written};
use crate::store::blob::file_format::Form;
use crate::store::blob::files::Reader;
use crate::store::crypto::cipher::BlobKeys;
use crate::store::disk_space::io_error;
use crate::store::{Result, StoreError};

/// Bytes of a piece.
const PIECE: usize = 256 << 10;

/// Attachments in the database. Clones share the pins.
#[derive(Clone)]
pub(super) struct PostgresBlobs(Arc<Inner>);

struct Inner {
    connections: Connections,
    threads: Arc<Threads>,
    keys: Option<BlobKeys>,
    pins: Pins,
    size: MeasuredSize,
}

impl PostgresBlobs {
    pub fn new(connections: Connections, threads: Arc<Threads>, keys: Option<BlobKeys>) -> PostgresBlobs {
        let pins = Pins::default();
        let every = (connections.address.keep_unused / 4).max(Duration::from_millis(100));
        threads.handle().spawn(keep_pinned(connections.clone(), pins.clone(), every));
        PostgresBlobs(Arc::new(Inner { connections, threads, keys, pins, size: MeasuredSize::default() }))
    }

    fn rows(&self, sql: String, parameters: Parameters) -> Result<Vec<tokio_postgres::Row>> {
        let connections = self.0.connections.clone();
        self.0.threads.wait(async move { connections.rows(&sql, parameters).await })
    }

    fn table(&self, name: &str) -> String {
        format!("{}.{name}", self.0.connections.address.schema)
    }

    /// As an SQL interval: how long a blob is kept after its last use.
    fn keep(&self) -> String {
        format!("interval '{} seconds'", self.0.connections.address.keep_unused.as_secs())
    }

    /// Removes the blob while its row is locked. `referenced` reads on other connections.
    fn remove(&self, id: &BlobId, referenced: &dyn Fn() -> Result<bool>) -> Result<bool> {
        let (blobs, keep, connections, named) =
            (self.table("blobs"), self.keep(), self.0.connections.clone(), id.to_vec());
        let locked: Option<(Connection, i64)> = self.0.threads.wait(async move {
            let client = connections.get().await?;
            let sql = format!("select upload from {blobs} where id = $1 and used <= now() - {keep} for update");
            let found = async {
                client.batch_execute("begin").await?;
                client.query_opt(&sql, &[&named]).await
            };
            client.set_holds(true);
            match connections.guarded(&client, found).await {
                Some(Ok(Some(row))) => Ok(Some((client, row.get(0)))),
                Some(Ok(None)) => end(&connections, client, "rollback").await.map(|()| None),
                ended => Err(failed_call(ended)),
            }
        })?;
        let Some((client, upload)) = locked else { return Ok(false) };
        let keep = referenced();
        let remove = keep == Ok(false);
        let (blobs, pieces, connections) = (self.table("blobs"), self.table("pieces"), self.0.connections.clone());
        self.0.threads.wait(async move {
            if !remove {
                return end(&connections, client, "rollback").await;
            }
            let sql = format!(
                "delete from {pieces} where upload = {upload}; delete from {blobs} where upload = {upload}; commit"
            );
            end(&connections, client, &sql).await
        })?;
        keep.map(|referenced| !referenced)
    }
}

/// Runs the end of a transaction; a connection on which it fails is closed.
async fn end(connections: &Connections, client: Connection, sql: &str) -> Result<()> {
    match connections.guarded(&client, client.batch_execute(sql)).await {
        Some(Ok(())) => {
            client.set_holds(false);
            Ok(())
        }
        ended => Err(failed_call(ended)),
    }
}

/// Records the use of the blobs that this node has pinned, for as long as they are pinned.
async fn keep_pinned(connections: Connections, pins: Pins, every: Duration) {
    let sql = format!("update {}.blobs set used = now() where id = any($1)", connections.address.schema);
    loop {
        tokio::time::sleep(every).await;
        // A removal holds the lock of its pins while it waits for these threads, so they must not wait for that lock.
        let pins = pins.clone();
        let ids = crate::blocking::spawn_blocking(move || pins.all().iter().map(|id| id.to_vec()).collect());
        let ids: Vec<Vec<u8>> = ids.await.unwrap_or_default();
        if !ids.is_empty()
            && let Err(error) = connections.rows(&sql, vec![Box::new(ids)]).await
        {
            tracing::warn!("the use of attachments could not be noted: {error}");
        }
    }
}

/// Removes uploads that were not completed.
pub(super) async fn sweep(connections: &Connections) -> Result<()> {
    let schema = &connections.address.schema;
    let sql = format!(
        "with old as (delete from {schema}.blobs where id is null and used < now() - interval '1 day' returning upload) \
         delete from {schema}.pieces using old where pieces.upload = old.upload"
    );
    connections.rows(&sql, Vec::new()).await.map(drop)
}

impl Blobs for PostgresBlobs {
    fn create(&self) -> Result<Box<dyn BlobWriter>> {
        let pieces = Pieces { to: self.clone(), upload: super::slot::random(), n: 0, buffer: Vec::new(), ended: false };
        Ok(Box::new(Writer {
            pieces,
            length: 0,
            sha: Sha256::new(),
            md5: Md5::new(),
            form: Form::new(self.0.keys.as_ref()),
        }))
    }

    fn open(&self, id: &BlobId, offset: u64) -> Result<Box<dyn Read + Send>> {
        let (blobs, pieces) = (self.table("blobs"), self.table("pieces"));
        // The last piece is read at once: the length is at the end of a blob file.
        let sql = format!(
            "select b.upload, b.size, p.n, p.data from {blobs} b left join {pieces} p \
             on p.upload = b.upload and p.n = (b.size - 1) / {PIECE} where b.id = $1"
        );
        let rows = self.rows(sql, vec![Box::new(id.to_vec())])?;
        let damaged = |how: &str| StoreError::Damaged(format!("attachment {} {how}", hex(id)));
        let row = rows.first().ok_or_else(|| damaged("is gone"))?;
        let last: Option<(i32, Vec<u8>)> = row.get::<_, Option<i32>>(2).map(|n| (n, row.get(3)));
        let last = last.ok_or_else(|| damaged("is incomplete"))?;
        let size = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
        let file = Stored { of: self.clone(), upload: row.get(0), size, at: 0, piece: Some(last) };
        Ok(Box::new(Reader::new(file, size, id, offset, self.0.keys.as_ref())?))
    }

    fn contains(&self, id: &BlobId) -> Result<bool> {
        let (blobs, keep) = (self.table("blobs"), self.keep());
        let pinned = self.0.pins.holds(id);
        // The time is recorded only if the recorded one is old, so that most reads write nothing. `old` compares it, and not the
        // update: an update that has waited for another node's compares again, with the new time, and would find no row.
        let sql = match pinned {
            false => format!("select from {blobs} where id = $1"),
            true => format!(
                "with old as (select id from {blobs} where id = $1 and used < now() - {keep} / 2), \
                 noted as (update {blobs} b set used = now() from old where b.id = old.id returning b.id) \
                 select from noted union all select from {blobs} where id = $1 and used >= now() - {keep} / 2"
            ),
        };
        Ok(!self.rows(sql, vec![Box::new(id.to_vec())])?.is_empty())
    }

    fn pin(&self, id: &BlobId) -> Pin {
        self.0.pins.pin(id)
    }

    fn remove_unless(&self, id: &BlobId, referenced: &dyn Fn() -> Result<bool>) -> Result<bool> {
        self.0.pins.unless_pinned(id, || self.remove(id, referenced))
    }

    fn list(&self, after: Option<&BlobId>, limit: usize) -> Result<Vec<BlobId>> {
        let sql = format!("select id from {} where id > $1 order by id limit $2", self.table("blobs"));
        let after = after.map(|id| id.to_vec()).unwrap_or_default();
        let rows = self.rows(sql, vec![Box::new(after), Box::new(i64::try_from(limit).unwrap_or(i64::MAX))])?;
        Ok(rows.iter().filter_map(|row| row.get::<_, &[u8]>(0).try_into().ok()).collect())
    }

    fn disk_bytes(&self) -> u64 {
        let sql = format!("select pg_total_relation_size('{}')", self.table("pieces"));
        let connections = self.0.connections.clone();
        self.0.size.get(|| self.0.threads.wait(async move { connections.row(&sql, Vec::new()).await }))
    }
}

/// The pieces of an upload. Dropping an unfinished upload removes its pieces.
struct Pieces {
    to: PostgresBlobs,
    upload: i64,
    n: i32,
    buffer: Vec<u8>,
    ended: bool,
}

impl Pieces {
    fn call(&self, sql: String, parameters: Parameters) -> io::Result<()> {
        self.to.rows(sql, parameters).map(drop).map_err(io::Error::other)
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == PIECE {
            let sql = format!("select {}($1, $2, $3)", self.to.table("put_piece"));
            let piece = std::mem::take(&mut self.buffer);
            self.call(sql, vec![Box::new(self.upload), Box::new(self.n), Box::new(piece)])?;
            self.n += 1;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if self.ended || self.n == 0 {
            return;
        }
        let (connections, upload) = (self.to.0.connections.clone(), self.upload);
        let (blobs, pieces) = (self.to.table("blobs"), self.to.table("pieces"));
        self.to.0.threads.handle().spawn(async move {
            let sql = format!(
                "with old as (delete from {blobs} where upload = $1 and id is null returning upload) \
                 delete from {pieces} using old where {pieces}.upload = old.upload"
            );
            // If this fails, the sweep of old uploads removes the pieces.
            let _ = connections.rows(&sql, vec![Box::new(upload)]).await;
        });
    }
}

struct Writer {
    pieces: Pieces,
    length: u64,
    sha: Sha256,
    md5: Md5,
    form: Form,
}

impl BlobWriter for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sha.update(bytes);
        self.md5.update(bytes);
        self.form.take(self.length, bytes, &mut self.pieces).map_err(of_io)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Written> {
        let digest: BlobId = std::mem::take(&mut self.sha).finalize().into();
        let md5 = std::mem::take(&mut self.md5).finalize().into();
        let form = std::mem::replace(&mut self.form, Form::new(None));
        let (tail, id) = form.end(self.length, &digest, None);
        self.pieces.write_all(&tail).map_err(of_io)?;
        let pieces = &mut self.pieces;
        let size = pieces.n as i64 * PIECE as i64 + pieces.buffer.len() as i64;
        let last = Some(std::mem::take(&mut pieces.buffer)).filter(|last| !last.is_empty());
        let pin = pieces.to.0.pins.pin(&id);
        let sql = format!("select {}($1, $2, $3, $4, $5)", pieces.to.table("finish_blob"));
        let parameters: Parameters =
            vec![Box::new(pieces.upload), Box::new(id.to_vec()), Box::new(size), Box::new(pieces.n), Box::new(last)];
        pieces.call(sql, parameters).map_err(of_io)?;
        pieces.ended = true;
        Ok(Written { id, length: self.length, md5, pin })
    }
}

/// The store's error that an I/O error wraps, or else the I/O error as one of the store.
fn of_io(error: io::Error) -> StoreError {
    match error.downcast::<StoreError>() {
        Ok(error) => error,
        Err(error) => io_error("writing an attachment", &error),
    }
}

/// A stored blob file, read piece by piece.
struct Stored {
    of: PostgresBlobs,
    upload: i64,
    size: u64,
    at: u64,
    /// The piece that was read last.
    piece: Option<(i32, Vec<u8>)>,
}

impl Stored {
    fn load(&mut self, n: i32) -> io::Result<&[u8]> {
        if self.piece.as_ref().is_none_or(|(at_hand, _)| *at_hand != n) {
            let sql = format!("select data from {} where upload = $1 and n = $2", self.of.table("pieces"));
            let rows = self.of.rows(sql, vec![Box::new(self.upload), Box::new(n)]).map_err(io::Error::other)?;
            let gone = || io::Error::new(io::ErrorKind::InvalidData, "a piece of an attachment is gone");
            let data: Vec<u8> = rows.first().ok_or_else(gone)?.get(0);
            self.piece = Some((n, data));
        }
        Ok(self.piece.as_ref().map_or(&[], |(_, data)| data))
    }
}

impl Read for Stored {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.size || into.is_empty() {
            return Ok(0);
        }
        let (n, skip) = (self.at / PIECE as u64, (self.at % PIECE as u64) as usize);
        let piece = self.load(i32::try_from(n).map_err(io::Error::other)?)?;
        let mut rest = piece.get(skip..).unwrap_or_default();
        let count = rest.read(into)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Stored {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
