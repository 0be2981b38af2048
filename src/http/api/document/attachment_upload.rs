//! Receives attachments: their names, their settings, and their way from the socket to the blob store.

use crate::blocking::blocking;
use crate::db::{Database, Upload, Uploaded};
use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::request::body::RequestBody;
use crate::http::response::error;
use crate::net::multipart::Chunks;

/// Bytes collected from the socket before they are written to the blob store.
const COLLECT: usize = 256 << 10;

/// The settings for attachments.
#[derive(Debug, Clone)]
pub struct AttachmentRules {
    /// Maximum size of an attachment in bytes.
    pub max_size: u64,
    level: u32,
    types: Vec<String>,
}

impl AttachmentRules {
    /// The settings in force for a request.
    pub fn of(request: &Request) -> AttachmentRules {
        AttachmentRules {
            max_size: request.settings.max_attachment_size,
            level: request.settings.compression.level,
            types: request.settings.compression.types.clone(),
        }
    }

    /// Checks the size of the attachment `name` against the maximum.
    pub fn check_size(&self, name: &str, bytes: u64) -> Result<()> {
        if bytes > self.max_size {
            return Err(Error::TooLarge { word: "attachment_too_large", reason: name.to_owned() });
        }
        Ok(())
    }

    /// Begins an upload. `gzipped` says that the client compressed the content with gzip.
    pub fn start(&self, database: &Database, name: &str, content_type: &str, gzipped: bool) -> Result<Upload> {
        let level = if self.compresses(content_type) { self.level } else { 0 };
        Upload::start(&**database.blobs(), name, content_type, gzipped, level)
    }

    /// Whether content of this type is stored compressed. The setting has patterns like `text/*`
    /// (`couch_att`).
    fn compresses(&self, content_type: &str) -> bool {
        let essence = content_type.split(';').next().unwrap_or("").trim();
        self.types.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => essence.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start)),
            None => essence.eq_ignore_ascii_case(pattern),
        })
    }
}

impl Chunks for RequestBody {
    type Error = error::Failure;

    fn chunk(&mut self) -> impl Future<Output = error::Result<Option<bytes::Bytes>>> + Send {
        RequestBody::chunk(self)
    }
}

/// Streams an attachment from the socket to the blob store, in bounded memory.
pub async fn receive<C: Chunks<Error = error::Failure>>(
    body: &mut C,
    mut upload: Upload,
    rules: &AttachmentRules,
    name: &str,
) -> error::Result<Uploaded> {
    let mut collected: Vec<bytes::Bytes> = Vec::new();
    let mut waiting = 0;
    loop {
        let chunk = body.chunk().await?;
        let ended = chunk.is_none();
        if let Some(chunk) = chunk {
            waiting += chunk.len();
            rules.check_size(name, upload.length() + waiting as u64)?;
            collected.push(chunk);
        }
        if waiting >= COLLECT || (ended && waiting > 0) {
            let chunks = std::mem::take(&mut collected);
            waiting = 0;
            upload = blocking(move || {
                for chunk in chunks {
                    upload.write(&chunk)?;
                }
                Ok(upload)
            })
            .await?;
        }
        if ended {
            return Ok(blocking(move || upload.finish()).await?);
        }
    }
}
