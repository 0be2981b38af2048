//! Writes rendered documents to a response, and estimates the memory that they take.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::db::read::render::Piece;
use crate::db::record::Attachment;
use crate::db::{Content, Found};
use crate::error::Result;
use crate::http::response::body::Sender;
use crate::http::response::error;
use crate::store::blob::blobs::Blobs;

/// Bytes of an attachment read at once. A multiple of three, so that the base64 texts of the chunks can be
/// concatenated.
const STEP: usize = 192 << 10;

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

/// Writes a rendered document. Reads inline attachments while the socket drains.
pub async fn write(out: &mut Sender, blobs: &Arc<dyn Blobs>, pieces: Vec<Piece>) -> error::Result<()> {
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.text(text).await,
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
        let content = crate::blocking::blocking(move || Content::open(&*blobs, &attachment, decode, offset)).await?;
        Ok(Reading(Some(content)))
    }

    /// Returns the next `most` bytes, fewer before the end of the content, and `None` at the end.
    pub async fn next(&mut self, most: usize) -> Result<Option<Vec<u8>>> {
        let Some(mut content) = self.0.take() else { return Ok(None) };
        let (content, bytes) = crate::blocking::blocking(move || {
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
