//! The record of one revision's body and attachments.

use crate::db::codec::{Reader, Writer};
use crate::error::{Error, Result};
use crate::store::blob::blobs::BlobId;

const VERSION: u8 = 1;

/// An attachment of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The attachment's name, unique within the revision.
    pub name: String,
    /// The `Content-Type` that the client sent.
    pub content_type: String,
    /// Generation of the revision that added the attachment.
    pub revpos: u64,
    /// MD5 of the stored bytes (compressed if `gzip`): the digest on the wire.
    pub md5: [u8; 16],
    /// Length of the uncompressed content in bytes.
    pub length: u64,
    /// Length of the stored bytes.
    pub stored: u64,
    /// Whether the stored bytes are gzip-compressed.
    pub gzip: bool,
    /// The blob with the stored bytes.
    pub blob: BlobId,
}

impl Attachment {
    /// The digest on the wire: `md5-<base64>`.
    pub fn digest(&self) -> String {
        use base64::Engine;
        format!("md5-{}", base64::engine::general_purpose::STANDARD.encode(self.md5))
    }
}

/// The body of one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BodyRecord {
    /// The attachments of the revision.
    pub attachments: Vec<Attachment>,
    /// Compact JSON text of an object without underscore members.
    pub json: String,
}

impl BodyRecord {
    /// Replaces the blob id of each attachment by `name(id)`. Returns whether any id changed.
    pub fn rename(&mut self, name: &dyn Fn(&BlobId) -> BlobId) -> bool {
        let mut changed = false;
        for attachment in &mut self.attachments {
            let named = name(&attachment.blob);
            changed |= named != attachment.blob;
            attachment.blob = named;
        }
        changed
    }

    /// Size of the body for `sizes.external`: the JSON text plus the stored bytes of the attachments.
    pub fn bytes(&self) -> u64 {
        self.json.len() as u64 + self.attachments.iter().map(|attachment| attachment.stored).sum::<u64>()
    }

    /// Encodes the record for the store.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::version(VERSION);
        out.number(self.attachments.len() as u64);
        for attachment in &self.attachments {
            out.text(&attachment.name);
            out.text(&attachment.content_type);
            out.number(attachment.revpos);
            out.bytes(&attachment.md5);
            out.number(attachment.length);
            out.number(attachment.stored);
            out.byte(u8::from(attachment.gzip));
            out.bytes(&attachment.blob);
        }
        out.0.extend_from_slice(self.json.as_bytes());
        out.0
    }

    /// Decodes a body. Reuses the allocation of `value` for the JSON text.
    pub fn decode(id: &str, mut value: Vec<u8>) -> Result<BodyRecord> {
        let read = || {
            let mut fields = Reader::version(&value, VERSION)?;
            let count = fields.number()? as usize;
            let mut attachments = Vec::with_capacity(count.min(fields.0.len() / 50));
            for _ in 0..count {
                attachments.push(Attachment {
                    name: fields.text()?.to_owned(),
                    content_type: fields.text()?.to_owned(),
                    revpos: fields.number()?,
                    md5: fields.array()?,
                    length: fields.number()?,
                    stored: fields.number()?,
                    gzip: fields.byte()? != 0,
                    blob: fields.array()?,
                });
            }
            Some((attachments, value.len() - fields.0.len()))
        };
        let damaged = || Error::Damaged(format!("a body of document {id}"));
        let (attachments, begin) = read().ok_or_else(damaged)?;
        value.drain(..begin);
        Ok(BodyRecord { attachments, json: String::from_utf8(value).map_err(|_| damaged())? })
    }
}
