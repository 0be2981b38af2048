//! The revision that a client names.

use http::header;

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::error::{self, Failure};
use crate::rev::Revision;

/// Parses a revision id from a request.
pub fn parse_revision(text: &str) -> Result<Revision> {
    text.parse().map_err(|_| Error::BadRequest("Invalid rev format".into()))
}

/// The revision that the client names in the body or the query. Fails with 400 if they differ.
pub fn explicit_revision(request: &Request, body: Option<Revision>) -> error::Result<Option<Revision>> {
    let query = request.query.get("rev").map(parse_revision).transpose()?;
    match (body, query) {
        (Some(body), Some(query)) if body != query => {
            Err(Failure::bad_request("Document rev from request body and query string have different values"))
        }
        (body, query) => Ok(body.or(query)),
    }
}

/// The revision that the client names in the body, the query or `If-Match`. Fails with 400 if they differ
/// (CouchDB: `couch_doc_from_req`).
pub fn named_revision(request: &Request, body: Option<Revision>) -> error::Result<Option<Revision>> {
    let explicit = explicit_revision(request, body)?;
    let etag = match request.header(header::IF_MATCH) {
        Some(value) => Some(parse_revision(value.trim().trim_start_matches("W/").trim_matches('"'))?),
        None => None,
    };
    match (explicit, etag) {
        (Some(explicit), Some(etag)) if explicit != etag => {
            Err(Failure::bad_request("Document rev and etag have different values"))
        }
        (explicit, etag) => Ok(explicit.or(etag)),
    }
}
