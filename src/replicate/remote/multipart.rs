//! Reads revisions with attachments as `multipart/mixed`.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::answer::Answer;
use super::arrived::{self, Arrived, Unfit};
use super::asked::{AT_ONCE, Asked, Found, ended, too_large};
use super::connection::Connection;
use crate::blocking::{beside, blocking};
use crate::db::Upload;
use crate::db::parse::{Stub, StubFields};
use crate::net::multipart::{Chunks, Following, Parts, boundary_of, malformed};
use crate::replicate::failure::Failure;
use crate::replicate::peer::{Attached, Document};

/// Bytes that are collected before they are written to the blob store.
const COLLECT: usize = 256 << 10;

/// Reads the parts of an answer of `open_revs`.
pub(super) async fn read<'a>(
    asked: &Asked<'_, 'a>,
    mut answer: Answer,
    content_type: &str,
    found: &mut Found<'a>,
) -> Result<(), Failure> {
    let boundary = boundary_of(content_type)?;
    let mut parts = Parts::new(&mut answer, &boundary);
    while let Some(headers) = parts.next().await? {
        let kind = headers.get(CONTENT_TYPE).unwrap_or_default();
        if kind.contains("error=") {
            // `{"missing": revision}`.
            continue;
        }
        let read = if kind.starts_with("multipart/related") {
            let inner = boundary_of(&kind)?;
            related(asked, &mut Parts::new(&mut parts, &inner), found).await?
        } else {
            match document(asked, &mut parts, found).await? {
                Ok(arrived) => with_attachments::<Answer>(asked, arrived, None).await?,
                Err(unfit) => Err(unfit),
            }
        };
        match read {
            Ok(document) => found.add(document),
            Err(unfit) => found.unfit(unfit),
        }
        if found.bytes > AT_ONCE || found.is_put_off {
            // The rest is asked for again once these are delivered. The connection ends with the answer.
            return Ok(());
        }
    }
    parts.finish().await
}

/// Reads a document and the attachments that follow it.
async fn related<'a, B: Chunks<Error = Failure> + Send>(
    asked: &Asked<'_, 'a>,
    parts: &mut Parts<'_, B>,
    found: &mut Found<'a>,
) -> Result<Result<Document, Unfit>, Failure> {
    if parts.next().await?.is_none() {
        return Err(malformed("no first part").into());
    }
    match document(asked, parts, found).await? {
        Ok(arrived) => with_attachments(asked, arrived, Some(parts)).await,
        Err(unfit) => Ok(Err(unfit)),
    }
}

/// Reads the JSON of a document.
async fn document<'a, B: Chunks<Error = Failure> + Send>(
    asked: &Asked<'_, 'a>,
    parts: &mut Parts<'_, B>,
    found: &mut Found<'a>,
) -> Result<Result<Arrived, Unfit>, Failure> {
    let mut text = BytesMut::new();
    while let Some(chunk) = parts.content().await? {
        if text.len() + chunk.len() > asked.connection.largest_text() {
            return Ok(Err(Unfit::TooMuch("the document is too large".into())));
        }
        if !found.may_have(asked.connection, text.len() + chunk.len()) {
            return Ok(Err(Unfit::PutOff));
        }
        text.extend_from_slice(&chunk);
    }
    let limits = asked.connection.limits;
    Ok(beside(text.len(), || arrived::read(&text, asked.id, asked.revisions, limits)))
}

/// Reads the attachments that follow, and adds those that were left out.
async fn with_attachments<B: Chunks<Error = Failure> + Send>(
    asked: &Asked<'_, '_>,
    mut arrived: Arrived,
    mut parts: Option<&mut Parts<'_, B>>,
) -> Result<Result<Document, Unfit>, Failure> {
    let generation = arrived.revision.generation;
    let described = std::mem::take(&mut arrived.split.attachments);
    let mut attached: Vec<Option<Attached>> = described.iter().map(|_| None).collect();
    let follows = |stub: &Stub| matches!(stub, Stub::Follows { .. });
    let following: Vec<usize> = (0..described.len()).filter(|at| follows(&described[*at].1)).collect();
    let mut missing = Following::new(following.iter().map(|at| described[*at].0.clone()).collect());
    while let Some(expected) = missing.expected() {
        let (name, stub) = &described[following[expected]];
        let content_type = stub.fields().content_type.as_deref().unwrap_or("");
        let headers = match parts.as_mut() {
            Some(parts) => parts.next_attachment(name, content_type).await?,
            None => None,
        };
        let (Some(headers), Some(parts)) = (headers, parts.as_mut()) else {
            return Ok(Err(Unfit::Wrong("attachments that do not follow".into())));
        };
        let Some(at) = missing.take(&headers).map(|at| following[at]) else { continue };
        let (name, Stub::Follows { fields }) = &described[at] else { continue };
        let encoded = headers.get(CONTENT_ENCODING).is_some_and(|value| value == "gzip");
        let gzipped = encoded || fields.encoding.as_deref() == Some("gzip");
        let received = receive(asked.connection, *parts, name.clone(), fields.clone(), gzipped).await?;
        let Some(upload) = received else { return Ok(Err(too_large(name))) };
        let fields = fields.clone();
        let stored = crate::blocking::spawn_blocking(move || arrived::end(upload, &fields, generation));
        attached[at] = Some(stored.await.map_err(ended)??);
    }
    let mut attachments = Vec::with_capacity(described.len());
    for ((name, stub), attached) in described.into_iter().zip(attached) {
        let attached = match (attached, stub) {
            (Some(attached), _) => Some(attached),
            (None, Stub::Stub { fields }) if asked.has_ancestors => arrived::stub(&name, &fields),
            (None, Stub::Inline { fields, data }) => match inline(asked, &name, fields, data, generation).await? {
                Ok(attached) => Some(attached),
                Err(unfit) => return Ok(Err(unfit)),
            },
            (None, Stub::Stub { .. } | Stub::Follows { .. }) => None,
        };
        let Some(attached) = attached else {
            return Ok(Err(Unfit::Wrong("an attachment without its content".into())));
        };
        attachments.push(attached);
    }
    Ok(Ok(arrived.with(attachments)))
}

/// Stores an attachment that came inside the JSON.
pub(super) async fn inline(
    asked: &Asked<'_, '_>,
    name: &str,
    fields: StubFields,
    data: Vec<u8>,
    generation: u64,
) -> Result<Result<Attached, Unfit>, Failure> {
    if data.len() as u64 > asked.connection.limits.attachment {
        return Ok(Err(too_large(name)));
    }
    let (blobs, name) = (asked.connection.blobs.clone(), name.to_owned());
    let store = move || arrived::inline(&*blobs, &name, &fields, &data, generation);
    Ok(Ok(crate::blocking::spawn_blocking(store).await.map_err(ended)??))
}

/// Streams an attachment into the blob store; `None` if it is too large. `gzipped`: it comes compressed, and is
/// stored as it comes.
pub(super) async fn receive<C: Chunks<Error = Failure>>(
    connection: &Connection<'_>,
    chunks: &mut C,
    name: String,
    fields: StubFields,
    gzipped: bool,
) -> Result<Option<Upload>, Failure> {
    let blobs = connection.blobs.clone();
    let mut upload = blocking(move || arrived::begin(&*blobs, &name, &fields, gzipped)).await?;
    let (mut collected, mut bytes): (Vec<Bytes>, usize) = (Vec::new(), 0);
    loop {
        let chunk = chunks.chunk().await?;
        let ended = chunk.is_none();
        if let Some(chunk) = chunk {
            bytes += chunk.len();
            if upload.length() + bytes as u64 > connection.limits.attachment {
                return Ok(None);
            }
            collected.push(chunk);
        }
        if bytes >= COLLECT || (ended && bytes > 0) {
            let some = std::mem::take(&mut collected);
            bytes = 0;
            let written = blocking(move || {
                some.iter().try_for_each(|chunk| upload.write(chunk))?;
                Ok(upload)
            });
            upload = written.await.map_err(|error| match error {
                crate::error::Error::BadRequest(why) => Failure::Protocol(why),
                other => other.into(),
            })?;
        }
        if ended {
            return Ok(Some(upload));
        }
    }
}
