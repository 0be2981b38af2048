//! The errors of handlers, and the single match that converts them to HTTP status, error word and reason.

use std::borrow::Cow;

use http::StatusCode;

use crate::app::rate_limits::TooMany;
use crate::app::{answer_budget, body_budget};
use crate::error::Error;
use crate::net::multipart::Malformed;
use crate::policy::write_error::WriteError;
use crate::store::StoreError;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// An error of a layer below HTTP.
    Domain(Error),
    /// The path exists, but not for this method (405). Holds the value of the `Allow` header.
    MethodNotAllowed(&'static str),
    /// Path and query exceed the length limit (414).
    UriTooLong,
    /// The client exceeds a rate limit (429) and may retry after this many seconds.
    TooMany { seconds: u64, reason: &'static str },
    /// An error that exists only at the HTTP level.
    Refused { status: StatusCode, word: &'static str, reason: Cow<'static, str> },
    /// The client disconnected, or sent a shorter body than it announced. The connection is closed after the
    /// response, which the client probably does not read.
    Gone,
}

/// The result of handlers and of functions that decode requests.
pub type Result<T> = std::result::Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Domain(error)
    }
}

impl From<TooMany> for Failure {
    fn from(TooMany { seconds, reason }: TooMany) -> Failure {
        Failure::TooMany { seconds, reason }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Failure {
        match error {
            WriteError::TooMany(refused) => refused.into(),
            WriteError::Failed(error) => error.into(),
        }
    }
}

impl From<Malformed> for Failure {
    fn from(Malformed(wrong): Malformed) -> Failure {
        Failure::bad_request(wrong)
    }
}

impl From<body_budget::Refused> for Failure {
    fn from(refused: body_budget::Refused) -> Failure {
        match refused {
            body_budget::Refused::TooLarge => too_large(),
            body_budget::Refused::NoRoom => {
                unavailable("The server's memory for request bodies is full. Try again later.")
            }
        }
    }
}

impl From<answer_budget::NoRoom> for Failure {
    fn from(_: answer_budget::NoRoom) -> Failure {
        unavailable("The server's memory for responses is full. Try again later.")
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Domain(error.into())
    }
}

impl Failure {
    /// 400 `bad_request`.
    pub fn bad_request(reason: impl Into<String>) -> Failure {
        Failure::Domain(Error::BadRequest(reason.into()))
    }

    /// 404 `not_found`, reason `missing`.
    pub fn missing() -> Failure {
        Failure::Domain(Error::Missing)
    }
}

/// Returns CouchDB's status, `error` and `reason` for a failure (`chttpd.erl`, `error_info`).
pub fn wire(failure: &Failure) -> (StatusCode, Cow<'_, str>, Cow<'_, str>) {
    let (status, word, reason): (StatusCode, &str, Cow<'_, str>) = match failure {
        Failure::Domain(error) => return domain(error),
        Failure::MethodNotAllowed(allow) => {
            (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("Only {allow} allowed").into())
        }
        Failure::UriTooLong => (StatusCode::URI_TOO_LONG, "too_long", "the request uri is too long".into()),
        Failure::TooMany { reason, .. } => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests", (*reason).into()),
        Failure::Refused { status, word, reason } => (*status, word, reason.as_ref().into()),
        Failure::Gone => (StatusCode::BAD_REQUEST, "bad_request", "the request's body ended early".into()),
    };
    (status, word.into(), reason)
}

/// The `reason` of a failure as JSON: a text, but for what a function has thrown. `reason`: the text of [`wire`].
pub fn reason_json(failure: &Failure, reason: Cow<'_, str>) -> serde_json::Value {
    match failure {
        Failure::Domain(Error::Thrown { reason, .. }) => reason.clone(),
        _ => reason.into(),
    }
}

/// The reason that a client receives for an internal error. The log has the cause under the request's id.
const INTERNAL: &str = "An internal error occurred. The server's log has its cause under this X-Couch-Request-ID.";

fn domain(error: &Error) -> (StatusCode, Cow<'_, str>, Cow<'_, str>) {
    let (status, word): (StatusCode, &str) = match error {
        Error::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
        Error::QueryParse(_) => (StatusCode::BAD_REQUEST, "query_parse_error"),
        Error::IllegalDocId(_) => (StatusCode::BAD_REQUEST, "illegal_docid"),
        Error::DatabaseNameTooLong(_) => (StatusCode::BAD_REQUEST, "database_name_too_long"),
        Error::IllegalDatabaseName(_) => (StatusCode::BAD_REQUEST, "illegal_database_name"),
        Error::DocValidation(_) => (StatusCode::BAD_REQUEST, "doc_validation"),
        Error::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "unauthorized"),
        Error::Forbidden(_) | Error::Locked(_) => (StatusCode::FORBIDDEN, "forbidden"),
        Error::NoDatabase | Error::Missing | Error::Deleted | Error::NotFound(_) => {
            (StatusCode::NOT_FOUND, "not_found")
        }
        Error::PartitionOverflow(_) => (StatusCode::FORBIDDEN, "partition_overflow"),
        Error::Conflict => (StatusCode::CONFLICT, "conflict"),
        Error::DatabaseExists => (StatusCode::PRECONDITION_FAILED, "file_exists"),
        Error::MissingStub(_) => (StatusCode::PRECONDITION_FAILED, "missing_stub"),
        Error::TooLarge { word, .. } => (StatusCode::PAYLOAD_TOO_LARGE, word),
        Error::RangeNotSatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, "requested_range_not_satisfiable"),
        Error::BadContentType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_content_type"),
        Error::Script { word, .. } => (script_status(word), word),
        Error::Thrown { word, .. } => (script_status(word), word),
        Error::Mango { word, .. } => (mango_status(word), word),
        Error::Again(_) | Error::Down(_) => (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable"),
        Error::Full => (StatusCode::INSUFFICIENT_STORAGE, "insufficient_storage"),
        Error::Damaged(_) | Error::Internal(_) => {
            return (StatusCode::INTERNAL_SERVER_ERROR, "internal_server_error".into(), INTERNAL.into());
        }
    };
    (status, word.into(), error.to_string().into())
}

/// CouchDB's status for an error word that a design function throws. For any other word the function has
/// failed: 500.
fn script_status(word: &str) -> StatusCode {
    match word {
        "bad_request" | "query_parse_error" | "compilation_error" | "invalid_design_doc" => StatusCode::BAD_REQUEST,
        "method_not_allowed" => StatusCode::METHOD_NOT_ALLOWED,
        "not_acceptable" => StatusCode::NOT_ACCEPTABLE,
        "gone" => StatusCode::GONE,
        "unauthorized" => StatusCode::UNAUTHORIZED,
        "forbidden" => StatusCode::FORBIDDEN,
        "not_found" => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The status of a Mango error (`mango_error.erl`): 400, except for a missing text search service, failed
/// saves and missing indexes.
fn mango_status(word: &str) -> StatusCode {
    match word {
        "required index service unavailable" => StatusCode::SERVICE_UNAVAILABLE,
        "error_saving_ddoc" => StatusCode::INTERNAL_SERVER_ERROR,
        "not_found" => StatusCode::NOT_FOUND,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// CouchDB's 413 for a body over `max_http_request_size`.
pub fn too_large() -> Failure {
    Error::TooLarge { word: "too_large", reason: "the request entity is too large".into() }.into()
}

/// 503 `service_unavailable`.
fn unavailable(reason: &'static str) -> Failure {
    Failure::Refused { status: StatusCode::SERVICE_UNAVAILABLE, word: "service_unavailable", reason: reason.into() }
}

/// 404: a path below a design document that names no function.
pub fn invalid_path(word: &'static str) -> Failure {
    Failure::Refused { status: StatusCode::NOT_FOUND, word, reason: "Invalid path.".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_couchdbs_status_error_and_reason() {
        for (failure, status, word, reason) in [
            (Failure::Domain(Error::NoDatabase), 404, "not_found", "Database does not exist."),
            (Failure::missing(), 404, "not_found", "missing"),
            (Failure::Domain(Error::Deleted), 404, "not_found", "deleted"),
            (Failure::Domain(Error::Conflict), 409, "conflict", "Document update conflict."),
            (Failure::MethodNotAllowed("GET,HEAD"), 405, "method_not_allowed", "Only GET,HEAD allowed"),
            (Failure::UriTooLong, 414, "too_long", "the request uri is too long"),
            (Failure::Domain(Error::TooLarge { word: "too_large", reason: "x".into() }), 413, "too_large", "x"),
            (Failure::Domain(Error::Internal("secret path".into())), 500, "internal_server_error", INTERNAL),
            (
                Failure::Domain(Error::Script { word: "compilation_error".into(), reason: "r".into() }),
                400,
                "compilation_error",
                "r",
            ),
        ] {
            let (got_status, got_word, got_reason) = wire(&failure);
            assert_eq!((got_status.as_u16(), &*got_word, &*got_reason), (status, word, reason));
        }
    }
}
