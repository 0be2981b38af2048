//! Documents on their way to another server: as JSON, and as multipart with the contents of their attachments.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use super::requester::{self, MakeBody};
use crate::blocking::blocking;
use crate::clock::Clock;
use crate::db::Content as Reading;
use crate::db::read::render;
use crate::db::record::{Attachment, BodyRecord};
use crate::json::quote;
use crate::net::multipart::{boundary, header_safe, value_safe};
use crate::replicate::peer::{Content, Document};
use crate::store::blob::blobs::{Blobs, Pin};

/// Bytes of an attachment that are read at once.
const STEP: usize = 128 << 10;

/// The document as JSON, with its history. Attachments are stubs, or follow. `decode`: compressed ones follow
/// decompressed; their digest, which is that of the compressed bytes, is left out.
pub(super) fn text(document: &Document, decode: bool) -> String {
    let body = BodyRecord { attachments: Vec::new(), json: document.json.clone() };
    let mut text =
        render::proposed(&document.id, Some(&document.revision()), Some(&document.path), document.deleted, &body);
    if document.attachments.is_empty() {
        return text;
    }
    text.pop();
    text.push_str(",\"_attachments\":{");
    for (at, attached) in document.attachments.iter().enumerate() {
        let about = &attached.about;
        let form = match attached.content {
            Content::Blob(_) => "follows",
            Content::Stub => "stub",
        };
        let comma = if at > 0 { "," } else { "" };
        let (name, content_type) = (quote(&about.name), quote(&about.content_type));
        let (revpos, length) = (about.revpos, about.length);
        text.push_str(&format!(
            "{comma}{name}:{{\"content_type\":{content_type},\"revpos\":{revpos},\"length\":{length},\"{form}\":true"
        ));
        if !(about.gzip && decode) {
            text.push_str(&format!(",\"digest\":\"{}\"", about.digest()));
        }
        if about.gzip && !decode {
            text.push_str(&format!(",\"encoding\":\"gzip\",\"encoded_length\":{}", about.stored));
        }
        text.push('}');
    }
    text.push_str("}}");
    text
}

/// A piece of a multipart body.
#[derive(Clone)]
enum Piece {
    Text(Bytes),
    Attachment { about: Box<Attachment>, decode: bool, pin: Pin },
}

/// The document as `multipart/related`, streamed from the blob store. `decode`: see [`text`].
pub(super) fn multipart(
    document: &Document,
    decode: bool,
    blobs: &Arc<dyn Blobs>,
    clock: &Clock,
) -> requester::Content {
    let boundary = boundary(clock);
    let mut pieces = Vec::new();
    let mut head =
        format!("--{boundary}\r\nContent-Type: application/json\r\n\r\n{}\r\n--{boundary}", text(document, decode));
    for attached in &document.attachments {
        let Content::Blob(pin) = &attached.content else { continue };
        let about = &attached.about;
        let encoding = if about.gzip && !decode { "\r\nContent-Encoding: gzip" } else { "" };
        let sent = if decode { about.length } else { about.stored };
        head.push_str(&format!(
            "\r\nContent-Disposition: attachment; filename=\"{}\"\r\nContent-Type: {}\r\nContent-Length: {}{encoding}\r\n\r\n",
            header_safe(&about.name),
            value_safe(&about.content_type),
            sent,
        ));
        pieces.push(Piece::Text(std::mem::take(&mut head).into()));
        pieces.push(Piece::Attachment { about: Box::new(about.clone()), decode, pin: pin.clone() });
        head = format!("\r\n--{boundary}");
    }
    head.push_str("--");
    pieces.push(Piece::Text(head.into()));
    let length = pieces.iter().map(|piece| match piece {
        Piece::Text(text) => text.len() as u64,
        Piece::Attachment { about, decode: true, .. } => about.length,
        Piece::Attachment { about, .. } => about.stored,
    });
    let length = length.sum();
    let sent = Arc::new(AtomicU64::new(0));
    let content_type = format!("multipart/related; boundary=\"{boundary}\"");
    requester::Content::Stream { content_type, length, make: body(pieces, blobs.clone(), sent.clone()), sent }
}

/// Where the stream of a body is.
struct Sending {
    pieces: std::vec::IntoIter<Piece>,
    open: Option<(Reading, Pin)>,
    blobs: Arc<dyn Blobs>,
    sent: Arc<AtomicU64>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Sending {
    async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        loop {
            if let Some((mut reading, pin)) = self.open.take() {
                let (reading, bytes) = blocking(move || {
                    let bytes = reading.next(STEP)?;
                    Ok((reading, bytes))
                })
                .await?;
                if !bytes.is_empty() {
                    self.open = Some((reading, pin));
                    return Ok(Some(bytes.into()));
                }
            }
            match self.pieces.next() {
                None => return Ok(None),
                Some(Piece::Text(text)) => return Ok(Some(text)),
                Some(Piece::Attachment { about, decode, pin }) => {
                    let blobs = self.blobs.clone();
                    let reading = blocking(move || Reading::open(&*blobs, &about, decode, 0)).await?;
                    self.open = Some((reading, pin));
                }
            }
        }
    }
}

fn body(pieces: Vec<Piece>, blobs: Arc<dyn Blobs>, sent: Arc<AtomicU64>) -> MakeBody {
    Arc::new(move || {
        let sending =
            Sending { pieces: pieces.clone().into_iter(), open: None, blobs: blobs.clone(), sent: sent.clone() };
        let frames = stream::try_unfold(sending, |mut sending| async move {
            let next = sending.next().await?;
            if let Some(bytes) = &next {
                sending.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Ok::<_, BoxError>(next.map(|bytes| (Frame::data(bytes), sending)))
        });
        StreamBody::new(frames).boxed_unsync()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::replicate::peer::Attached;

    #[test]
    fn a_document_is_rendered_with_its_history_and_attachments() {
        let about = Attachment {
            name: "a\"b".into(),
            content_type: "text/plain".into(),
            revpos: 1,
            md5: [0; 16],
            length: 7,
            stored: 5,
            gzip: true,
            blob: [0; 32],
        };
        let document = Document {
            id: "a/b".into(),
            path: (2, ["b", "a"].iter().map(|hash| crate::rev::RevisionHash::parse(hash)).collect()),
            deleted: true,
            json: r#"{"x":1e2}"#.into(),
            attachments: vec![Attached { about, content: Content::Stub }],
            held: None,
        };
        let decoded: Value = serde_json::from_str(&text(&document, true)).unwrap();
        assert_eq!(decoded["_attachments"]["a\"b"]["digest"], Value::Null, "that of the compressed bytes");
        assert_eq!(decoded["_attachments"]["a\"b"]["encoding"], Value::Null);
        let text = text(&document, false);
        let value: Value = serde_json::from_str(&text).unwrap();
        let wanted = json!({
            "_id": "a/b", "_rev": "2-b", "x": 100.0, "_deleted": true,
            "_revisions": {"start": 2, "ids": ["b", "a"]},
            "_attachments": {"a\"b": {
                "content_type": "text/plain", "revpos": 1, "digest": "md5-AAAAAAAAAAAAAAAAAAAAAA==", "length": 7,
                "stub": true, "encoding": "gzip", "encoded_length": 5,
            }},
        });
        assert_eq!(value, wanted);
        assert!(text.contains("1e2"), "numbers stay as they are: {text}");
    }
}
