//! The closed domain error. It knows nothing of HTTP: `http::response::error` maps each variant to a status and
//! CouchDB's error word.

#![warn(missing_docs)]

use std::fmt;

/// Everything a domain call can fail with.
///
/// Where a client shows or matches the `reason`, it is CouchDB's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The request is malformed (CouchDB: 400 `bad_request`).
    BadRequest(String),
    /// A query parameter is malformed or contradicts another (400 `query_parse_error`).
    QueryParse(String),
    /// A document id is not allowed (400 `illegal_docid`).
    IllegalDocId(String),
    /// A database name is not allowed (400 `illegal_database_name`).
    IllegalDatabaseName(String),
    /// A database name is too long (400 `database_name_too_long`).
    DatabaseNameTooLong(String),
    /// A document's `_` member is unknown or has the wrong type (400 `doc_validation`).
    DocValidation(String),
    /// The request is not authenticated, and must be (401 `unauthorized`).
    Unauthorized(String),
    /// The user is authenticated but not authorized (403 `forbidden`).
    Forbidden(String),
    /// The user's sign-ins from this address are refused for this many seconds, because too many passwords were
    /// wrong (403 `forbidden`).
    Locked(u64),
    /// No such database (404 `not_found`, `Database does not exist.`).
    NoDatabase,
    /// The document, or this revision of it, does not exist (404 `not_found`, reason `missing`).
    Missing,
    /// The document is deleted (404 `not_found`, reason `deleted`).
    Deleted,
    /// Something else does not exist (404 `not_found`).
    NotFound(String),
    /// The edit does not name the current revision (409 `conflict`).
    Conflict,
    /// The edit would grow a document in a partition that is full; holds the document's id (403
    /// `partition_overflow`).
    PartitionOverflow(String),
    /// The database already exists (412 `file_exists`).
    DatabaseExists,
    /// A stub names an attachment that its parent does not have (412 `missing_stub`).
    MissingStub(String),
    /// A configured size limit is exceeded (413 with this error word: `document_too_large`, `too_large`,
    /// `attachment_too_large`).
    TooLarge {
        /// The error word.
        word: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A requested byte range cannot be served (416).
    RangeNotSatisfiable,
    /// The body is not JSON where JSON is required (415 `bad_content_type`).
    BadContentType(String),
    /// A design document's function failed. `word` is CouchDB's error word and determines the status
    /// (`compilation_error`, `render_error`, `timeout`, `reduce_overflow_error`, or whatever the function
    /// threw).
    Script {
        /// The error word.
        word: String,
        /// What is wrong.
        reason: String,
    },
    /// A design document's function threw `forbidden` (403) or `unauthorized` (401) with a reason that is no text. The
    /// client gets the value, as from CouchDB.
    Thrown {
        /// The error word.
        word: &'static str,
        /// The value.
        reason: serde_json::Value,
    },
    /// A selector, an index definition or another part of a Mango request is wrong. `word` is CouchDB's error
    /// word (`mango_error.erl`; status 400, except for the few words that mean a missing service or a failed
    /// save).
    Mango {
        /// The error word.
        word: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Something that the request depends on has changed while it was under way; the same request may be sent again (503
    /// `service_unavailable`).
    Again(String),
    /// The database server under the store cannot be reached or cannot work now (503 `service_unavailable`). Logged
    /// with its cause.
    Down(String),
    /// The device is full (507): writes that make no room are refused, reads still work.
    Full,
    /// Stored data fails its checksum or cannot be decoded. The text names what was being read.
    Damaged(String),
    /// An unexpected internal failure. Logged with its cause; the client sees no internals.
    Internal(String),
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::BadRequest(reason)
            | Error::QueryParse(reason)
            | Error::IllegalDocId(reason)
            | Error::IllegalDatabaseName(reason)
            | Error::DocValidation(reason)
            | Error::Unauthorized(reason)
            | Error::Forbidden(reason)
            | Error::NotFound(reason)
            | Error::MissingStub(reason)
            | Error::TooLarge { reason, .. }
            | Error::BadContentType(reason)
            | Error::Again(reason)
            | Error::Script { reason, .. }
            | Error::Mango { reason, .. } => out.write_str(reason),
            Error::Thrown { reason, .. } => write!(out, "{reason}"),
            Error::Locked(_) => {
                out.write_str("Account is temporarily locked due to multiple authentication failures")
            }
            Error::DatabaseNameTooLong(name) => write!(out, "At least one path segment of `{name}` is too long."),
            Error::PartitionOverflow(id) => write!(out, "Partition limit exceeded due to update on '{id}'"),
            Error::NoDatabase => out.write_str("Database does not exist."),
            Error::Missing => out.write_str("missing"),
            Error::Deleted => out.write_str("deleted"),
            Error::Conflict => out.write_str("Document update conflict."),
            Error::DatabaseExists => out.write_str("The database could not be created, the file already exists."),
            Error::RangeNotSatisfiable => out.write_str("Requested range not satisfiable"),
            Error::Down(_) => out.write_str("The database server cannot be reached at the moment. Try again later."),
            Error::Full => out.write_str(
                "The disk is full: delete databases or documents and compact, or free room on the device; until then only \
                 reads and writes that make room are served.",
            ),
            Error::Damaged(what) => write!(out, "stored data is damaged: {what}"),
            Error::Internal(cause) => out.write_str(cause),
        }
    }
}

impl std::error::Error for Error {}

/// The result of every domain call.
pub type Result<T> = std::result::Result<T, Error>;
