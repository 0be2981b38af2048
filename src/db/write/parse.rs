//! Parses a document that a client sends: extracts its `_` members and keeps the rest as the text that was
//! sent.
//!
//! Equal to `couch_doc:from_json_obj_validate/2` and `couch_att:from_json/2`: the same special members, the
//! same accepted values and the same error texts, and the first error in text order is the one returned.
//!
//! Written by hand instead of derived with serde: only the `_` members are parsed and the body stays one slice
//! of text, and a derived type has neither CouchDB's error texts nor their order.

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine, alphabet};

use crate::error::{Error, Result};
use crate::json::escape::unescape;
use crate::json::scan::{Place, scan};
use crate::json::text::{elements, members, string};
use crate::rev::{MAX_GENERATION, Revision, RevisionHash};

/// Limits of a JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How deeply arrays and objects may nest.
    pub depth: usize,
    /// In bytes. For `split`, the largest body without `_` members and whitespace; for `compact`, the largest
    /// text.
    pub bytes: usize,
}

/// A document as a client sends it, split into its parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Split {
    /// `_id`.
    pub id: Option<String>,
    /// The revision in `_rev`, or the newest of `_revisions` if it has any.
    pub rev: Option<Revision>,
    /// `_deleted`.
    pub deleted: bool,
    /// `_revisions`: the generation of the newest revision and the hashes, newest first. Never empty.
    pub revisions: Option<(u64, Vec<RevisionHash>)>,
    /// `_attachments`, in text order; the names are unique.
    pub attachments: Vec<(String, Stub)>,
    /// The JSON object without `_` members (except those of replication documents): compact, names unique at
    /// every depth and in their order, numbers as they were written.
    pub body: String,
}

/// An attachment as the document describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stub {
    /// A stub: the attachment of the preceding revision.
    Stub {
        /// The other members.
        fields: StubFields,
    },
    /// The content follows in another part of the request.
    Follows {
        /// The other members.
        fields: StubFields,
    },
    /// The content is in the document, as base64.
    Inline {
        /// The other members.
        fields: StubFields,
        /// The content, decoded.
        data: Vec<u8>,
    },
}

impl Stub {
    /// The members that all forms have.
    pub fn fields(&self) -> &StubFields {
        match self {
            Stub::Stub { fields } | Stub::Follows { fields } | Stub::Inline { fields, .. } => fields,
        }
    }
}

/// The members of an attachment; `None` if absent or `null`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StubFields {
    /// MIME type.
    pub content_type: Option<String>,
    /// Generation of the revision that added it.
    pub revpos: Option<u64>,
    /// `md5-` followed by the digest in base64.
    pub digest: Option<String>,
    /// Size of the content in bytes.
    pub length: Option<u64>,
    /// Size in bytes after `encoding`.
    pub encoded_length: Option<u64>,
    /// `gzip` if the content is compressed.
    pub encoding: Option<String>,
}

/// Validates and compacts any JSON value; [`Split::body`] defines the compact form.
pub fn compact(text: &[u8], limits: &Limits) -> Result<String> {
    if text.len() > limits.bytes {
        return Err(Error::TooLarge { word: "too_large", reason: "the request entity is too large".into() });
    }
    Ok(scan(text, limits.depth)?.text)
}

/// Splits a document into its parts.
///
/// # Errors
/// `BadRequest` (not JSON, not an object, bad `_rev`, bad attachments), `IllegalDocId`, `DocValidation`,
/// `TooLarge`.
pub fn split(text: &[u8], limits: &Limits) -> Result<Split> {
    let scanned = scan(text, limits.depth)?;
    let text = scanned.text;
    if !text.starts_with('{') {
        return Err(Error::BadRequest("Document must be a JSON object".into()));
    }
    let places = scanned.members.unwrap_or_else(|| {
        let mut members = members(&text);
        std::iter::from_fn(|| members.next_place()).collect()
    });
    let mut document = Split::default();
    let mut taken = false;
    let mut keep = vec![true; places.len()];
    for (place, keep) in places.iter().zip(&mut keep) {
        let name = &text[place.name.clone()];
        // The name may start with an escaped underscore.
        if name.starts_with(['_', '\\']) {
            *keep = document.take(&unescape(name), &text[place.value.clone()])?;
            taken |= !*keep;
        }
    }
    document.body = if taken { kept(&text, &places, &keep) } else { text };
    if document.body.len() > limits.bytes {
        return Err(Error::TooLarge { word: "document_too_large", reason: document.id.unwrap_or_default() });
    }
    Ok(document)
}

/// The object with only the members of `keep`, copied in the longest possible runs.
fn kept(text: &str, places: &[Place], keep: &[bool]) -> String {
    let mut body = String::with_capacity(text.len());
    body.push('{');
    let mut index = 0;
    while index < places.len() {
        if !keep[index] {
            index += 1;
            continue;
        }
        let start = places[index].name.start - 1;
        while index + 1 < places.len() && keep[index + 1] {
            index += 1;
        }
        if body.len() > 1 {
            body.push(',');
        }
        body.push_str(&text[start..places[index].value.end]);
        index += 1;
    }
    body.push('}');
    body
}

/// Validates a document's id like `couch_doc:validate_docid/1`.
pub fn check_id(id: &str) -> Result<()> {
    let reason = match id {
        "" => "Document id must not be empty",
        "_design/" => "Illegal document id `_design/`",
        "_local/" => "Illegal document id `_local/`",
        _ if id.starts_with('_') && !id.starts_with("_design/") && !id.starts_with("_local/") => {
            "Only reserved document ids may start with underscore."
        }
        _ => return Ok(()),
    };
    Err(Error::IllegalDocId(reason.into()))
}

impl Split {
    /// Handles a member whose name may start with an underscore. Returns whether it stays in the body.
    fn take(&mut self, name: &str, value: &str) -> Result<bool> {
        match (name, value.as_bytes().first()) {
            ("_id", _) => {
                let id = string(value).ok_or_else(|| Error::IllegalDocId("Document id must be a string".into()))?;
                check_id(&id)?;
                self.id = Some(id.into_owned());
            }
            ("_rev", _) => {
                if self.revisions.is_none() {
                    let rev = string(value).and_then(|text| text.parse().ok());
                    self.rev = Some(rev.ok_or_else(|| Error::BadRequest("Invalid rev format".into()))?);
                }
            }
            ("_revisions", Some(b'{')) => {
                let (start, hashes) = revisions(value)?;
                if let Some(newest) = hashes.first() {
                    self.rev = Some(Revision { generation: start, hash: newest.clone() });
                    self.revisions = Some((start, hashes));
                }
            }
            ("_deleted", _) if value == "true" => self.deleted = true,
            ("_deleted", _) if value == "false" => self.deleted = false,
            ("_attachments", Some(b'{')) => self.attachments = attachments(value)?,
            ("_revs_info" | "_local_seq" | "_conflicts" | "_deleted_conflicts", _) => {}
            (
                "_access"
                | "_replication_state"
                | "_replication_state_time"
                | "_replication_state_reason"
                | "_replication_id"
                | "_replication_stats",
                _,
            ) => return Ok(true),
            _ if name.starts_with('_') => {
                return Err(Error::DocValidation(format!("Bad special document member: {name}")));
            }
            _ => return Ok(true),
        }
        Ok(false)
    }
}

fn revisions(object: &str) -> Result<(u64, Vec<RevisionHash>)> {
    let invalid = |reason: &str| Error::DocValidation(reason.into());
    let (mut start, mut ids) = (None, None);
    for (name, value) in members(object) {
        match &*name {
            "start" => start = value.parse::<u64>().ok().filter(|start| *start <= MAX_GENERATION),
            "ids" => ids = value.starts_with('[').then_some(value),
            _ => {}
        }
    }
    let start = start.ok_or_else(|| invalid("_revisions.start isn't an integer."))?;
    let ids = ids.ok_or_else(|| invalid("_revisions.ids isn't a array."))?;
    let hashes = elements(ids)
        .map(|id| {
            let id = string(id).ok_or_else(|| invalid("RevId isn't a string"))?;
            RevisionHash::parse_in(start, &id).map_err(|_| invalid("RevId isn't a valid hexadecimal"))
        })
        .collect::<Result<Vec<_>>>()?;
    if hashes.is_empty() && start > 0 {
        // CouchDB crashes on this input.
        return Err(invalid("_revisions.ids is empty."));
    }
    Ok((start, hashes))
}

fn attachments(object: &str) -> Result<Vec<(String, Stub)>> {
    members(object)
        // CouchDB ignores values that are not objects.
        .filter(|(_, value)| value.starts_with('{'))
        .map(|(name, value)| {
            let stub = attachment(&name, value)?;
            Ok((name.into_owned(), stub))
        })
        .collect()
}

fn attachment(attachment: &str, object: &str) -> Result<Stub> {
    let mut fields = StubFields::default();
    let (mut stub, mut follows, mut data) = (false, false, None);
    for (name, value) in members(object) {
        let bad = || Error::BadRequest(format!("Invalid attachment {name} for {attachment}"));
        let text = || match value {
            "null" => Ok(None),
            _ => string(value).map(|text| Some(text.into_owned())).ok_or_else(bad),
        };
        let number = || match value {
            "null" => Ok(None),
            _ => value.parse::<u64>().map(Some).map_err(|_| bad()),
        };
        match &*name {
            "stub" => stub = value == "true",
            "follows" => follows = value == "true",
            "data" => data = Some(value),
            "content_type" => fields.content_type = text()?,
            "digest" => fields.digest = text()?,
            "encoding" => fields.encoding = text()?,
            "revpos" => fields.revpos = number()?,
            "length" => fields.length = number()?,
            "encoded_length" => fields.encoded_length = number()?,
            _ => {}
        }
    }
    Ok(match (stub, follows) {
        (true, _) => Stub::Stub { fields },
        (false, true) => Stub::Follows { fields },
        (false, false) => {
            let data = data.and_then(string).and_then(|text| decode(&text));
            let data = data.ok_or_else(|| Error::BadRequest(format!("Invalid attachment data for {attachment}")))?;
            Stub::Inline { fields, data }
        }
    })
}

/// Decodes base64 like Erlang's `base64:decode/1`: padding is required, whitespace is ignored, and so are
/// bits after the last byte.
fn decode(text: &str) -> Option<Vec<u8>> {
    const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(true);
    const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
    if !text.contains([' ', '\t', '\r', '\n']) {
        return BASE64.decode(text).ok();
    }
    let dense: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).collect();
    BASE64.decode(dense).ok()
}

#[cfg(test)]
mod tests;
