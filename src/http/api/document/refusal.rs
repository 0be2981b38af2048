//! Replicated documents that are refused by themselves: of `_bulk_docs`, while the rest of the request is written, and of
//! `PUT` with `new_edits=false`, by which CouchDB's replicator sends a document with attachments.
//!
//! A replicator goes on after a refused document only if the document's own row says `forbidden` or
//! `unauthorized` (PouchDB, `replicate.js`). Any other word, and an error for the whole request, makes it stop, or send
//! the same request without end: one document that the server cannot take would stop the synchronization of its
//! whole database forever. Therefore an error of one replicated document becomes `forbidden`, with CouchDB's word in
//! the reason, and the log names the document.
//!
//! Errors that may pass (a full disk, a failing store, an attachment whose content must be sent again, a function that does
//! not compile or had too little time) and those of a client that does not speak the protocol (no revision) keep their
//! words and their extent: after `forbidden`, the replicator would never send the document again.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::db::Mode;
use crate::error::Error;
use crate::http::request::{Request, too_deep};
use crate::http::response::error::{Failure, reason_json, wire};
use crate::json::quote;

/// Refused documents of one request that the log names; the rest are counted.
const NAMED: usize = 10;
/// Bytes of an id in the log.
const LOGGED: usize = 200;

/// Whether a document that cannot be decoded is refused by itself. `text`: the document.
pub fn is_by_itself(error: &Error, mode: Mode, text: &str, max_depth: usize) -> bool {
    match mode {
        Mode::Replicated => is_of_document(error) && text.starts_with('{') && !is_without_revision(error, text),
        // CouchDB has no limit on the depth. What it refuses itself fails the whole request there and here.
        Mode::Interactive => matches!(error, Error::BadRequest(_)) && too_deep(text.as_bytes(), max_depth),
    }
}

/// Whether the cause is the document, so that sending it again would not help.
pub fn is_of_document(error: &Error) -> bool {
    matches!(
        error,
        Error::BadRequest(_)
            | Error::IllegalDocId(_)
            | Error::DocValidation(_)
            | Error::TooLarge { .. }
            | Error::PartitionOverflow(_)
    )
}

/// Whether the cause is this document, be it that a function threw something. `id`: its JSON.
fn is_final(id: &str, error: &Error) -> bool {
    let is_design = id.starts_with("\"_design/");
    match error {
        Error::Script { word, .. } => match word.as_str() {
            "os_process_error" | "timeout" | "InternalError" => false,
            "compilation_error" => is_design,
            _ => true,
        },
        Error::NotFound(_) | Error::QueryParse(_) => true,
        error => is_of_document(error),
    }
}

/// The error of a replicated document that is refused by itself.
fn forbidden(error: &Error) -> Error {
    let failure = Failure::Domain(error.clone());
    let (_, word, reason) = wire(&failure);
    Error::Forbidden(format!("{word}: {reason}"))
}

/// The error of a request that writes one document, which `id` names. If the document is a replicated one and the cause, its
/// replicator gets to know that, and the log names it. It knows the status 413.
pub fn of_one(request: &Request, database: &str, id: &str, error: Error, mode: Mode) -> Error {
    let id = quote(id);
    if mode == Mode::Interactive || !is_final(&id, &error) {
        return error;
    }
    RefusalLog::new(request, database).refused(&id, &error);
    if matches!(error, Error::TooLarge { .. }) { error } else { forbidden(&error) }
}

/// As [`of_one`], for a document that cannot be decoded. If `text` is no JSON, or has members that no server has stored, the
/// request is wrong.
pub fn of_text(request: &Request, database: &str, id: &str, error: Error, mode: Mode, text: &[u8]) -> Error {
    let text = std::str::from_utf8(text).unwrap_or_default().trim_ascii();
    let is_json = serde_json::from_str::<&RawValue>(text).is_ok();
    let is_stored = !matches!(error, Error::DocValidation(_));
    match is_json && is_stored && is_by_itself(&error, mode, text, request.settings.max_json_depth) {
        true => of_one(request, database, id, error, mode),
        false => error,
    }
}

/// Whether the document has no revision that a replicator would send: `_rev` that does not begin with a number.
fn is_without_revision(error: &Error, text: &str) -> bool {
    let is_number = |rev: &str| rev.split_once('-').is_some_and(|(number, _)| number.parse::<f64>().is_ok());
    *error == Error::BadRequest("Invalid rev format".into())
        && !member(text, "_rev").is_some_and(|rev| is_number(rev.trim_matches('"')))
}

/// `_id` of a document that cannot be decoded, as the document writes it. A client finds its document by it,
/// even with half of a surrogate pair in it.
pub fn id_of(text: &str) -> String {
    member(text, "_id").filter(|id| id.starts_with('"')).unwrap_or("null").to_owned()
}

/// `_rev` of a document that cannot be decoded, as the document writes it.
pub fn rev_of(text: &str) -> Option<String> {
    member(text, "_rev").filter(|rev| rev.starts_with('"')).map(str::to_owned)
}

/// The row of a document that was not written. `id` and `rev` are JSON. As in CouchDB, only the row of a replicated
/// document has the revision.
pub fn row(id: &str, rev: Option<&str>, error: &Error, mode: Mode) -> String {
    let failure = Failure::Domain(match mode == Mode::Replicated && is_final(id, error) {
        true => forbidden(error),
        false => error.clone(),
    });
    let (_, word, reason) = wire(&failure);
    let reason = reason_json(&failure, reason);
    let rev = rev.filter(|_| mode == Mode::Replicated).map_or_else(String::new, |rev| format!("\"rev\":{rev},"));
    format!("{{\"id\":{id},{rev}\"error\":{},\"reason\":{}}}", quote(&word), reason)
}

/// Logs the refused documents of a request.
pub struct RefusalLog<'a> {
    request: &'a Request,
    database: &'a str,
    refused: usize,
    /// Id, error and reason of each document that was not written, for a client that is known to replicate.
    rows: Vec<[String; 3]>,
}

impl<'a> RefusalLog<'a> {
    /// Creates the account; nothing is refused yet.
    pub fn new(request: &'a Request, database: &'a str) -> RefusalLog<'a> {
        RefusalLog { request, database, refused: 0, rows: Vec::new() }
    }

    /// Id, error and reason of each document that was not written, if the client is known to replicate.
    pub fn rows(&self) -> &[[String; 3]] {
        &self.rows
    }

    /// Notes a document that was not written. The log has those whose cause is the document. `id` is JSON.
    pub fn refused(&mut self, id: &str, error: &Error) {
        if self.request.syncing.is_some() {
            let failure = Failure::Domain(error.clone());
            let (_, word, reason) = wire(&failure);
            let id = serde_json::from_str(id).unwrap_or_else(|_| id.to_owned());
            self.rows.push([id, word.into_owned(), reason.into_owned()]);
        }
        if !is_final(id, error) {
            return;
        }
        self.refused += 1;
        if self.refused <= NAMED {
            let failure = Failure::Domain(error.clone());
            let (_, word, reason) = wire(&failure);
            let reason = &reason[..reason.floor_char_boundary(LOGGED)];
            tracing::warn!(
                database = self.database,
                doc = %&id[..id.floor_char_boundary(LOGGED)],
                error = &*word,
                reason,
                user = self.request.user.name.as_deref().unwrap_or("-"),
                id = self.request.id,
                "a replicated document was refused; the others are written"
            );
        }
    }
}

impl Drop for RefusalLog<'_> {
    fn drop(&mut self) {
        if self.refused > NAMED {
            let (more, id) = (self.refused - NAMED, &self.request.id);
            tracing::warn!(database = self.database, more, id, "more replicated documents were refused");
        }
    }
}

/// The text of a member of a JSON object whose strings may hold halves of surrogate pairs.
fn member<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_map(Find(name.as_bytes())).ok()?
}

/// Finds the last member with this name.
struct Find<'n>(&'n [u8]);

impl<'de> Visitor<'de> for Find<'_> {
    type Value = Option<&'de str>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<Name>()? {
            if name.0 == self.0 {
                found = Some(members.next_value::<&RawValue>()?.get());
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// The name of a member as bytes: `serde_json` refuses halves of surrogate pairs in texts only.
struct Name(Vec<u8>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Name, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Name;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a name")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Name, E> {
                Ok(Name(bytes.to_vec()))
            }
        }
        reader.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_an_undecodable_document_is_found() {
        let deep = format!(r#"{{"a":{}1{},"_id":"deep"}}"#, "[".repeat(100_000), "]".repeat(100_000));
        for (text, id) in [
            (deep.as_str(), "\"deep\""),
            (r#"{"\ud83d":"\ud83d", "_id" : "x\ude00", "b":[{"_id":"no"}]}"#, r#""x\ude00""#),
            (r#"{"\u005fid":"a","_id":"b"}"#, "\"b\""),
            (r#"{"_id":"b","\u005fid":"a"}"#, "\"a\""),
            (r#"{"_id":5}"#, "null"),
            (r#"{"_id":{"a":[]}}"#, "null"),
            ("{}", "null"),
            ("[1]", "null"),
        ] {
            assert_eq!(id_of(text), id);
        }
    }

    #[test]
    fn replicated_documents_are_forbidden_and_interactive_ones_have_couchdbs_word() {
        let error = Error::TooLarge { word: "document_too_large", reason: "a".into() };
        assert_eq!(
            row("\"a\"", Some("\"2-b\""), &error, Mode::Replicated),
            r#"{"id":"a","rev":"2-b","error":"forbidden","reason":"document_too_large: a"}"#
        );
        let interactive = row("\"a\"", Some("\"2-b\""), &error, Mode::Interactive);
        assert_eq!(interactive, r#"{"id":"a","error":"document_too_large","reason":"a"}"#);
        let conflict = row("\"a\"", None, &Error::Conflict, Mode::Replicated);
        assert_eq!(conflict, r#"{"id":"a","error":"conflict","reason":"Document update conflict."}"#);
    }

    #[test]
    fn a_document_without_a_revision_fails_the_request() {
        let invalid = Error::BadRequest("Invalid rev format".into());
        for (text, alone) in
            [(r#"{"_rev":"x"}"#, false), (r#"{"_rev":5}"#, false), (r#"{"_rev":"99999999999999999999-a"}"#, true)]
        {
            assert_eq!(is_by_itself(&invalid, Mode::Replicated, text, 8), alone, "{text}");
            assert!(!is_by_itself(&invalid, Mode::Interactive, text, 8), "{text}");
        }
        assert!(is_by_itself(&invalid, Mode::Interactive, r#"{"a":[[[[]]]]}"#, 4));
        assert!(!is_by_itself(&Error::Full, Mode::Replicated, "{}", 4));
    }
}
