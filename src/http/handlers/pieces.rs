//! Rendered documents on their way to the socket.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::db::record::Attachment;
use crate::db::render::Piece;
use crate::db::{Content, Found};
use crate::error::Result;
use crate::http::failure;
use crate::http::stream::Sender;
use crate::store::blobs::Blobs;

/// Bytes of an attachment read at once; a multiple of three, so that base64 of the pieces is base64 of the whole.
const STEP: usize = 192 << 10;

/// What is taken before documents are loaded whose size is not known.
pub const UNKNOWN: u64 = 8 << 20;

/// What to take before documents are loaded that are so large in the store, with their attachments: they are there twice,
/// as they are read and as they are written.
pub fn cost(bytes: u64) -> u64 {
    2 * bytes.min(UNKNOWN)
}

/// What loaded documents take.
pub fn cost_of<'a>(found: impl IntoIterator<Item = &'a Found>) -> u64 {
    found.into_iter().map(|found| 2 * found.body.json.len() as u64).sum()
}

/// Writes a rendered document; inline attachments are read while the socket drains.
pub async fn write(out: &mut Sender, blobs: &Arc<dyn Blobs>, pieces: Vec<Piece>) -> failure::Result<()> {
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.text(text).await,
            Piece::Base64 { attachment, decode } => {
                out.widen();
                let mut content = Reading::open(blobs, attachment, decode, 0).await?;
                while let Some(bytes) = content.next(STEP).await? {
                    out.text(STANDARD.encode(bytes)).await;
                }
            }
        }
    }
    Ok(())
}

/// The text of a document without inline attachments.
pub fn text(pieces: Vec<Piece>) -> Option<String> {
    match <[Piece; 1]>::try_from(pieces) {
        Ok([Piece::Text(text)]) => Some(text),
        _ => None,
    }
}

/// An attachment's content, read off the async threads.
pub struct Reading(Option<Content>);

impl Reading {
    /// See [`Content::open`].
    pub async fn open(blobs: &Arc<dyn Blobs>, attachment: Attachment, decode: bool, offset: u64) -> Result<Reading> {
        let blobs = blobs.clone();
        let content = crate::db::blocking(move || Content::open(&*blobs, &attachment, decode, offset)).await?;
        Ok(Reading(Some(content)))
    }

    /// The next bytes, `most` unless the content ends; `None` at the end.
    pub async fn next(&mut self, most: usize) -> Result<Option<Vec<u8>>> {
        let Some(mut content) = self.0.take() else { return Ok(None) };
        let (content, bytes) = crate::db::blocking(move || {
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
