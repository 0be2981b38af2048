//! Writes and reads the content of attachments, always as a stream; compressible types are stored compressed.
//!
//! CouchDB stores compressible types gzipped, and the digest of an attachment is the MD5 of the stored bytes.
//! settee uses the same compressor at the same level, so that the same upload has the same digest and
//! therefore the same revision.

use std::io::{Read, Write};

use flate2::GzBuilder;
use flate2::write::{GzDecoder, GzEncoder};

use crate::db::Database;
use crate::db::record::Attachment;
use crate::error::{Error, Result};
use crate::store::blob::blobs::{BlobId, BlobWriter, Blobs, Pin, Written};

/// An attachment that is being written. Dropping it before [`Upload::finish`] discards the content.
pub struct Upload {
    name: String,
    content_type: String,
    length: u64,
    sink: Sink,
}

enum Sink {
    Plain(Box<dyn BlobWriter>),
    /// Uncompressed content, which is compressed before it is stored. The blob's MD5 is not that of the received bytes.
    Compress {
        encoder: GzEncoder<BlobSink>,
        received: md5::Md5,
    },
    /// Content that the client compressed. It is decompressed only to compute its length.
    Compressed {
        blob: Box<dyn BlobWriter>,
        measure: GzDecoder<Measure>,
    },
}

/// The result of [`Upload::finish`].
pub struct Uploaded {
    /// The attachment. The caller has to set its `revpos`.
    pub attachment: Attachment,
    /// Protects the blob from removal as long as it exists.
    pub pin: Pin,
    /// MD5 of the bytes as received, to be compared to `Content-MD5`.
    pub sent_md5: [u8; 16],
}

impl Upload {
    /// Begins an upload. `gzipped` says that the client sends gzip (`Content-Encoding: gzip`, or `"encoding":
    /// "gzip"` in a multipart document). Otherwise the content is compressed at the gzip level `level`, or
    /// stored as received if that is 0.
    pub fn start(blobs: &dyn Blobs, name: &str, content_type: &str, gzipped: bool, level: u32) -> Result<Upload> {
        let blob = blobs.create()?;
        let sink = if gzipped {
            Sink::Compressed { blob, measure: GzDecoder::new(Measure(0)) }
        } else if level > 0 {
            // Write the same header as zlib: no name, no time, operating system Unix.
            let header = GzBuilder::new().operating_system(3);
            let encoder = header.write(BlobSink(blob), flate2::Compression::new(level));
            Sink::Compress { encoder, received: md5::Digest::new() }
        } else {
            Sink::Plain(blob)
        };
        Ok(Upload { name: name.to_owned(), content_type: content_type.to_owned(), length: 0, sink })
    }

    /// Number of bytes received so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends bytes. Blocks on disk I/O.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.length += bytes.len() as u64;
        match &mut self.sink {
            Sink::Plain(blob) => blob.write(bytes)?,
            Sink::Compress { encoder, received } => {
                md5::Digest::update(received, bytes);
                encoder.write_all(bytes).map_err(from_io)?;
            }
            Sink::Compressed { blob, measure } => {
                measure.write_all(bytes).map_err(|_| not_gzip())?;
                blob.write(bytes)?;
            }
        }
        Ok(())
    }

    /// Ends the upload and makes the content durable. Blocks on disk I/O.
    pub fn finish(self) -> Result<Uploaded> {
        let mut sent_md5 = None;
        let (written, gzip, length): (Written, bool, u64) = match self.sink {
            Sink::Plain(blob) => (blob.finish()?, false, self.length),
            Sink::Compress { encoder, received } => {
                sent_md5 = Some(md5::Digest::finalize(received).into());
                (encoder.finish().map_err(from_io)?.0.finish()?, true, self.length)
            }
            Sink::Compressed { blob, measure } => {
                let length = measure.finish().map_err(|_| not_gzip())?.0;
                (blob.finish()?, true, length)
            }
        };
        let attachment = Attachment {
            name: self.name,
            content_type: self.content_type,
            revpos: 0,
            md5: written.md5,
            length,
            stored: written.length,
            gzip,
            blob: written.id,
        };
        Ok(Uploaded { attachment, pin: written.pin, sent_md5: sent_md5.unwrap_or(written.md5) })
    }
}

fn not_gzip() -> Error {
    Error::BadRequest("the attachment's encoding is gzip, but its content is not".into())
}

struct BlobSink(Box<dyn BlobWriter>);

impl Write for BlobSink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Measure(u64);

impl Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Unwraps the store error in an I/O error of [`BlobSink`], which wraps it because the encoder requires an
/// I/O error.
fn from_io(error: std::io::Error) -> Error {
    match error.into_inner().and_then(|inner| inner.downcast::<crate::store::StoreError>().ok()) {
        Some(error) => (*error).into(),
        None => Error::Internal("writing an attachment failed".into()),
    }
}

/// The content of an attachment that is being read.
pub struct Content {
    reader: Box<dyn Read + Send>,
}

impl Content {
    /// Opens the content. If it is stored compressed and `decode` is true, it is decompressed. `offset` is in
    /// the bytes that are returned.
    pub fn open(blobs: &dyn Blobs, attachment: &Attachment, decode: bool, offset: u64) -> Result<Content> {
        if attachment.gzip && decode {
            let stored = blobs.open(&attachment.blob, 0)?;
            let mut reader: Box<dyn Read + Send> = Box::new(flate2::read::GzDecoder::new(stored));
            if offset > 0 {
                let skipped = std::io::copy(&mut reader.by_ref().take(offset), &mut std::io::sink());
                skipped.map_err(|_| Error::Damaged(format!("attachment {}", attachment.name)))?;
            }
            return Ok(Content { reader });
        }
        Ok(Content { reader: blobs.open(&attachment.blob, offset)? })
    }

    /// Returns the next bytes, at most `most`; empty at the end. Blocks on disk I/O.
    pub fn next(&mut self, most: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(most);
        match self.reader.by_ref().take(most as u64).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(Error::Damaged(format!("an attachment's content: {error}"))),
        }
    }
}

impl Database {
    /// The store of this database's attachments.
    pub fn blobs(&self) -> &std::sync::Arc<dyn Blobs> {
        &self.blobs
    }

    /// Pins the contents of a revision's attachments, in order. `None` if one of them is not there: the revision was
    /// removed after it was read. Blocks on disk I/O.
    pub fn pins(&self, attachments: &[Attachment]) -> Result<Option<Vec<Pin>>> {
        attachments.iter().map(|attachment| self.pin(&attachment.blob)).collect()
    }

    /// Pins content that is named by a body read before. `None` if it is not there: between the read and the
    /// pin, a compaction may have removed the body, and the sweep the content.
    pub(crate) fn pin(&self, blob: &BlobId) -> Result<Option<Pin>> {
        let pin = self.blobs.pin(blob);
        Ok(self.blobs.contains(blob)?.then_some(pin))
    }
}
