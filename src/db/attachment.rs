//! Attachment content: in, compressed where it pays, and out again, always as a stream.
//!
//! CouchDB stores compressible types gzipped and calls the MD5 of what it stores the digest; so does settee, with the same
//! compressor at the same level, so that the digest (and with it the revision) of the same upload is the same.

use std::io::{Read, Write};

use flate2::GzBuilder;
use flate2::write::{GzDecoder, GzEncoder};

use super::Database;
use super::record::Attachment;
use crate::error::{Error, Result};
use crate::store::blobs::{BlobWriter, Blobs, Pin, Written};

/// An attachment on its way in. Dropped unfinished, it leaves nothing behind.
pub struct Upload {
    name: String,
    content_type: String,
    length: u64,
    md5: md5::Md5,
    sink: Sink,
}

enum Sink {
    Plain(Box<dyn BlobWriter>),
    /// Identity content, compressed on the way.
    Compress(GzEncoder<BlobSink>),
    /// Content that the client has compressed; it is inflated only to be measured.
    Compressed {
        blob: Box<dyn BlobWriter>,
        measure: GzDecoder<Measure>,
    },
}

/// What [`Upload::finish`] gives: the attachment (its `revpos` is still to be set) and the blob's pin.
pub struct Uploaded {
    pub attachment: Attachment,
    pub pin: Pin,
    /// MD5 of the bytes as they were sent, for `Content-MD5`.
    pub sent_md5: [u8; 16],
}

impl Upload {
    /// `gzipped`: the client sends gzip (`Content-Encoding: gzip`, or `"encoding": "gzip"` in a multipart document).
    /// `level`: gzip level at which the content is stored, 0 for as it is sent.
    pub fn start(blobs: &dyn Blobs, name: &str, content_type: &str, gzipped: bool, level: u32) -> Result<Upload> {
        let blob = blobs.create()?;
        let sink = if gzipped {
            Sink::Compressed { blob, measure: GzDecoder::new(Measure(0)) }
        } else if level > 0 {
            // The header that zlib itself writes: no name, no time, made on Unix.
            let header = GzBuilder::new().operating_system(3);
            Sink::Compress(header.write(BlobSink(blob), flate2::Compression::new(level)))
        } else {
            Sink::Plain(blob)
        };
        Ok(Upload {
            name: name.to_owned(),
            content_type: content_type.to_owned(),
            length: 0,
            md5: md5::Digest::new(),
            sink,
        })
    }

    /// Bytes taken so far, as sent.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Takes some bytes. Blocks on the disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.length += bytes.len() as u64;
        md5::Digest::update(&mut self.md5, bytes);
        match &mut self.sink {
            Sink::Plain(blob) => blob.write(bytes)?,
            Sink::Compress(encoder) => encoder.write_all(bytes).map_err(from_io)?,
            Sink::Compressed { blob, measure } => {
                measure.write_all(bytes).map_err(|_| not_gzip())?;
                blob.write(bytes)?;
            }
        }
        Ok(())
    }

    /// Makes the content durable. Blocks on the disk.
    pub fn finish(self) -> Result<Uploaded> {
        let sent_md5: [u8; 16] = md5::Digest::finalize(self.md5).into();
        let (written, gzip, length): (Written, bool, u64) = match self.sink {
            Sink::Plain(blob) => (blob.finish()?, false, self.length),
            Sink::Compress(encoder) => (encoder.finish().map_err(from_io)?.0.finish()?, true, self.length),
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
        Ok(Uploaded { attachment, pin: written.pin, sent_md5 })
    }
}

fn not_gzip() -> Error {
    Error::BadRequest("the attachment's content is not gzip, though its encoding says so".into())
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

/// The blob sink wraps store errors in I/O errors for the encoder's sake; this takes them out again.
fn from_io(error: std::io::Error) -> Error {
    match error.into_inner().and_then(|inner| inner.downcast::<crate::store::StoreError>().ok()) {
        Some(error) => (*error).into(),
        None => Error::Internal("writing an attachment failed".into()),
    }
}

/// An attachment's content on its way out.
pub struct Content {
    reader: Box<dyn Read + Send>,
}

impl Content {
    /// The bytes of an attachment, decompressed if `decode` and it is stored compressed, from `offset` of what is sent.
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

    /// The next bytes, at most `most`; empty at the end. Blocks on the disk.
    pub fn next(&mut self, most: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(most);
        match self.reader.by_ref().take(most as u64).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(Error::Damaged(format!("an attachment's content: {error}"))),
        }
    }
}

impl Database {
    /// Where this database's attachments are kept.
    pub fn blobs(&self) -> &std::sync::Arc<dyn Blobs> {
        &self.blobs
    }
}
