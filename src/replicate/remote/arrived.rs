//! Checks what a peer has sent as a document.

use data_encoding::BASE64;

use crate::db::parse::{self, Split, StubFields};
use crate::db::record::Attachment;
use crate::db::{Upload, check_attachment_name};
use crate::error::Error;
use crate::replicate::access::Limits;
use crate::replicate::failure::Failure;
use crate::replicate::peer::{Attached, Content, Document};
use crate::rev::Revision;
use crate::store::blob::blobs::Blobs;

/// A document that has arrived, with its attachments as its JSON describes them.
pub(super) struct Arrived {
    pub split: Split,
    pub revision: Revision,
}

/// Why a document that has arrived is not taken.
#[derive(Debug)]
pub(super) enum Unfit {
    /// It is not what was asked for, or not a document: the peer does not keep to the protocol.
    Wrong(String),
    /// It is one, and does not fit here.
    TooMuch(String),
    /// It is too large to be read at the same time as others, and is read later.
    PutOff,
}

/// Reads the JSON of a document that was asked for as one of `revisions` of `id`, or as one that descends from
/// them.
pub(super) fn read(text: &[u8], id: &str, revisions: &[Revision], limits: Limits) -> Result<Arrived, Unfit> {
    // A source may list what is no document: `_local/...` would overwrite the checkpoints of others.
    crate::db::check_document_id(id, false).map_err(|error| Unfit::TooMuch(error.to_string()))?;
    let limits = parse::Limits { depth: limits.depth, bytes: limits.document };
    let split = parse::split(text, &limits).map_err(|error| match error {
        // Of the document and not of its history.
        Error::TooLarge { .. } | Error::DocValidation(_) | Error::BadRequest(_) => Unfit::TooMuch(error.to_string()),
        other => Unfit::Wrong(other.to_string()),
    })?;
    if split.id.as_deref() != Some(id) {
        return Err(Unfit::Wrong("another document than the one that was asked for".into()));
    }
    let Some(revision) = split.rev.clone() else { return Err(Unfit::Wrong("no revision".into())) };
    let path = split.revisions.clone().unwrap_or_else(|| (revision.generation, vec![revision.hash.clone()]));
    if path.0 == 0 || path.1.len() as u64 > path.0 {
        return Err(Unfit::Wrong(format!("a history of {} revisions up to generation {}", path.1.len(), path.0)));
    }
    let asked = |asked: &Revision| {
        let steps = path.0.checked_sub(asked.generation).and_then(|steps| usize::try_from(steps).ok());
        steps.and_then(|steps| path.1.get(steps)) == Some(&asked.hash)
    };
    if !revisions.iter().any(asked) {
        return Err(Unfit::Wrong(format!("revision {revision}, which was not asked for")));
    }
    for (name, _) in &split.attachments {
        check_attachment_name(name).map_err(|error| Unfit::TooMuch(error.to_string()))?;
    }
    Ok(Arrived { split, revision })
}

impl Arrived {
    /// The document with its attachments.
    pub fn with(self, attachments: Vec<Attached>) -> Document {
        let Arrived { split, revision } = self;
        let path = split.revisions.unwrap_or_else(|| (revision.generation, vec![revision.hash]));
        let id = split.id.unwrap_or_default();
        Document { id, path, deleted: split.deleted, json: split.body, attachments, held: None }
    }
}

/// The 16 bytes of a digest `md5-...`; `None` if it is another digest.
fn md5_of(digest: &str) -> Option<[u8; 16]> {
    BASE64.decode(digest.strip_prefix("md5-")?.as_bytes()).ok()?.try_into().ok()
}

/// An attachment that was left out because the target has it.
pub(super) fn stub(name: &str, fields: &StubFields) -> Option<Attached> {
    let md5 = md5_of(fields.digest.as_deref()?)?;
    let length = fields.length.unwrap_or(0);
    let about = Attachment {
        name: name.to_owned(),
        content_type: fields.content_type.clone().unwrap_or_else(|| "application/octet-stream".into()),
        revpos: fields.revpos?,
        md5,
        length,
        stored: fields.encoded_length.unwrap_or(length),
        gzip: fields.encoding.as_deref() == Some("gzip"),
        blob: [0; 32],
    };
    Some(Attached { about, content: Content::Stub })
}

/// Begins to store an attachment in the form in which it comes, so that it keeps its digest. `gzipped`: it comes
/// compressed.
pub(super) fn begin(blobs: &dyn Blobs, name: &str, fields: &StubFields, gzipped: bool) -> Result<Upload, Error> {
    let content_type = fields.content_type.as_deref().unwrap_or("application/octet-stream");
    Upload::start(blobs, name, content_type, gzipped, 0)
}

/// Ends it, and compares it with what the document says of it. Blocks.
pub(super) fn end(upload: Upload, fields: &StubFields, generation: u64) -> Result<Attached, Failure> {
    let uploaded = upload.finish().map_err(Failure::from)?;
    let mut about = uploaded.attachment;
    let wrong =
        |what: &str| Failure::Protocol(format!("attachment {} has another {what} than its document says", about.name));
    if let Some(digest) = fields.digest.as_deref().and_then(md5_of)
        && digest != about.md5
    {
        return Err(wrong("digest"));
    }
    if fields.length.is_some_and(|length| length != about.length && length != about.stored) {
        return Err(wrong("length"));
    }
    about.revpos = fields.revpos.unwrap_or(generation);
    Ok(Attached { about, content: Content::Blob(uploaded.pin) })
}

/// Stores an attachment that came inside the JSON. Blocks.
pub(super) fn inline(
    blobs: &dyn Blobs,
    name: &str,
    fields: &StubFields,
    data: &[u8],
    generation: u64,
) -> Result<Attached, Failure> {
    // Inside of JSON it is never compressed, whatever `encoding` says of the stored form.
    let fields = StubFields { encoding: None, ..fields.clone() };
    let mut upload = begin(blobs, name, &fields, false)?;
    upload.write(data)?;
    // The digest of a compressed form would be another one.
    end(upload, &StubFields { digest: None, length: None, ..fields }, generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { document: 100, depth: 10, id: 100, attachment: 100 };

    fn read_of(text: &str) -> Result<Revision, String> {
        let revisions = ["2-b".parse().unwrap()];
        match read(text.as_bytes(), "a", &revisions, LIMITS) {
            Ok(arrived) => Ok(arrived.revision),
            Err(Unfit::Wrong(why)) => Err(format!("wrong: {why}")),
            Err(Unfit::TooMuch(why)) => Err(format!("too much: {why}")),
            Err(Unfit::PutOff) => Err("put off".to_owned()),
        }
    }

    #[test]
    fn what_is_no_document_is_not_taken_even_if_it_was_asked_for() {
        for id in ["_local/a", "_local/", "_security", "_x", ""] {
            let text = serde_json::json!({"_id": id, "_rev": "2-b"}).to_string();
            let read = read(text.as_bytes(), id, &["2-b".parse().unwrap()], LIMITS);
            assert!(matches!(read, Err(Unfit::TooMuch(_))), "{id}");
        }
    }

    #[test]
    fn only_what_was_asked_for_is_taken() {
        let large = format!(r#"{{"_id":"a","_rev":"2-b","x":"{}"}}"#, "x".repeat(100));
        let rows = [
            (r#"{"_id":"a","_rev":"2-b"}"#, Ok("2-b")),
            (r#"{"_id":"a","_rev":"2-b","_revisions":{"start":2,"ids":["b","a"]}}"#, Ok("2-b")),
            (r#"{"_id":"a","_rev":"3-c","_revisions":{"start":3,"ids":["c","b"]}}"#, Ok("3-c")),
            (r#"{"_id":"b","_rev":"2-b"}"#, Err("wrong: another document")),
            (r#"{"_rev":"2-b"}"#, Err("wrong: another document")),
            (r#"{"_id":"a"}"#, Err("wrong: no revision")),
            (r#"{"_id":"a","_rev":"2-x"}"#, Err("wrong: revision 2-x")),
            (r#"{"_id":"a","_rev":"3-c","_revisions":{"start":3,"ids":["c","x"]}}"#, Err("wrong: revision 3-c")),
            (r#"{"_id":"a","_revisions":{"start":2,"ids":["b","a","z","y"]}}"#, Err("wrong: a history of 4")),
            (r#"{"_id":"a","_rev":"2-b","_attachments":{"_x":{"stub":true}}}"#, Err("too much: Attachment name")),
            (r#"{"_id":"a","_rev":"2-b","_other":1}"#, Err("too much: Bad special")),
            (r#"{"_id":"a","_rev":"2-b""#, Err("too much: invalid")),
            (r#"{"_id":"_local/a","_rev":"2-b"}"#, Err("wrong: another document")),
            (large.as_str(), Err("too much: ")),
        ];
        for (text, wanted) in rows {
            match (read_of(text), wanted) {
                (Ok(revision), Ok(wanted)) => assert_eq!(revision.to_string(), wanted, "{text}"),
                (Err(why), Err(wanted)) => assert!(why.starts_with(wanted), "{text}: {why}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
