//! Writes rendered documents to a response, and estimates the memory that they take.

use std::iter::Peekable;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::blocking::blocking;
use crate::db::read::render::Piece;
use crate::db::record::Attachment;
use crate::db::{Content, Found};
use crate::error::Result;
use crate::http::response::body::Sender;
use crate::http::response::error;
use crate::store::blob::blobs::Blobs;

/// Bytes of an attachment read at once. A multiple of three, so that the base64 texts of the chunks can be
/// concatenated.
pub const STEP: usize = 192 << 10;

/// Bytes to reserve before loading documents of unknown size.
pub const UNKNOWN: u64 = 8 << 20;

/// Bytes to reserve before loading documents that take `bytes` in the store, with their attachments. Memory
/// holds each document twice, as read and as rendered.
pub fn cost(bytes: u64) -> u64 {
    2 * bytes.min(UNKNOWN)
}

/// Bytes that loaded documents take, as read and as rendered.
pub fn cost_of<'a>(found: impl IntoIterator<Item = &'a Found>) -> u64 {
    found.into_iter().map(|found| 2 * found.body.json.len() as u64).sum()
}

/// Writes a rendered document. Reads inline attachments while the socket drains; small ones that follow each other at
/// once, since each reading is a hand-over to another thread and sends what was written before it.
pub async fn write(out: &mut Sender, blobs: &Arc<dyn Blobs>, pieces: Vec<Piece>) -> error::Result<()> {
    let mut pieces = pieces.into_iter().peekable();
    while let Some(piece) = pieces.next() {
        match piece {
            Piece::Text(text) => out.text(text).await,
            Piece::Base64(attachment) if small(&attachment).is_some() => {
                out.widen();
                let bytes = |piece: &Piece| match piece {
                    Piece::Text(text) => Some(text.len()),
                    Piece::Base64(attachment) => small(attachment),
                };
                let (some, blobs) = (step(Piece::Base64(attachment), &mut pieces, bytes), blobs.clone());
                out.text(blocking(move || read(&*blobs, some)).await?).await;
            }
            Piece::Base64(attachment) => {
                out.widen();
                let decode = attachment.gzip;
                let mut content = Reading::open(blobs, attachment, decode, 0).await?;
                while let Some(bytes) = content.next(STEP).await? {
                    out.text(STANDARD.encode(bytes)).await;
                }
            }
        }
    }
    Ok(())
}

/// `first`, and those of the next ones that together with it take at most [`STEP`] bytes. What has no number of bytes is
/// not among them.
pub fn step<T>(first: T, next: &mut Peekable<impl Iterator<Item = T>>, bytes: impl Fn(&T) -> Option<usize>) -> Vec<T> {
    let mut left = STEP.saturating_sub(bytes(&first).unwrap_or(STEP));
    let mut all = vec![first];
    let mut fits = |one: &T| {
        let rest = bytes(one).and_then(|bytes| left.checked_sub(bytes));
        left = rest.unwrap_or(left);
        rest.is_some()
    };
    while let Some(one) = next.next_if(&mut fits) {
        all.push(one);
    }
    all
}

/// The bytes of an attachment that is read at once. One that is stored compressed may have many more than it takes.
fn small(attachment: &Attachment) -> Option<usize> {
    usize::try_from(attachment.length).ok().filter(|length| *length <= STEP && !attachment.gzip)
}

/// The stored bytes of a small attachment. Blocks on disk I/O.
pub fn whole(blobs: &dyn Blobs, attachment: &Attachment) -> Result<Vec<u8>> {
    // One more, so that the end is read and checked, too.
    let most = usize::try_from(attachment.stored).unwrap_or(STEP) + 1;
    Content::open(blobs, attachment, false, 0)?.next(most)
}

/// Reads small attachments, and returns the text of all pieces.
fn read(blobs: &dyn Blobs, pieces: Vec<Piece>) -> Result<String> {
    let mut all = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => all.push_str(&text),
            Piece::Base64(attachment) => STANDARD.encode_string(whole(blobs, &attachment)?, &mut all),
        }
    }
    Ok(all)
}

/// Returns the text of a rendered document, or `None` if it has inline attachments.
pub fn text(pieces: Vec<Piece>) -> Option<String> {
    match <[Piece; 1]>::try_from(pieces) {
        Ok([Piece::Text(text)]) => Some(text),
        _ => None,
    }
}

/// Reads the content of an attachment on blocking threads.
pub struct Reading(Option<Content>);

impl Reading {
    /// See [`Content::open`].
    pub async fn open(blobs: &Arc<dyn Blobs>, attachment: Attachment, decode: bool, offset: u64) -> Result<Reading> {
        let blobs = blobs.clone();
        let content = blocking(move || Content::open(&*blobs, &attachment, decode, offset)).await?;
        Ok(Reading(Some(content)))
    }

    /// Returns the next `most` bytes, fewer before the end of the content, and `None` at the end.
    pub async fn next(&mut self, most: usize) -> Result<Option<Vec<u8>>> {
        let Some(mut content) = self.0.take() else { return Ok(None) };
        let (content, bytes) = blocking(move || {
            let bytes = content.next(most)?;
            Ok((content, bytes))
        })
        .await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.0 = Some(content);
        Ok(Some(bytes))
    }
}
