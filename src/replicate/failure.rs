//! Why a pass of a replication ended without an outcome.

use std::fmt;

use crate::error::Error;

/// Why a replication failed. No text of it has a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The source or the target does not exist, or cannot be opened by this user. Holds its name or URL.
    DbNotFound(String),
    /// The credentials are wrong (401).
    Unauthorized(String),
    /// The user may not do this (403).
    Forbidden(String),
    /// The target cannot be created.
    CannotCreate(String),
    /// The parameters cannot be carried out, for example because a filter function does not exist.
    BadRequest(String),
    /// The filter function cannot be read from the source.
    FilterFetch(String),
    /// The address of a peer may not be reached: it is one of a private network.
    AddressRefused(String),
    /// A checkpoint cannot be written, or a peer was restarted and may have lost changes.
    CheckpointCommit(String),
    /// There is no connection to a peer, or it broke, or there was no answer in time.
    Network(String),
    /// A peer has answered with a status that does not belong to the protocol.
    Status { status: u16, text: String },
    /// A peer has sent what does not belong to the protocol: no JSON, too large, revisions that do not match.
    Protocol(String),
    /// The changes feed has ended early or cannot be read.
    Changes(String),
    /// A database was deleted while it was replicated.
    Gone(String),
    /// A failure of this server: its store or a broken invariant.
    Server(Error),
}

impl Failure {
    /// CouchDB's error word.
    pub fn word(&self) -> &'static str {
        match self {
            Failure::DbNotFound(_) | Failure::Gone(_) => "db_not_found",
            Failure::Unauthorized(_) => "unauthorized",
            Failure::Forbidden(_) => "forbidden",
            Failure::CannotCreate(_) => "db_not_created",
            Failure::BadRequest(_) => "bad_request",
            Failure::FilterFetch(_) => "filter_fetch_error",
            Failure::AddressRefused(_) => "address_not_allowed",
            Failure::CheckpointCommit(_) => "checkpoint_commit_failure",
            Failure::Network(_) => "connection_failed",
            Failure::Status { .. } => "http_request_failed",
            Failure::Protocol(_) => "invalid_response",
            Failure::Changes(_) => "changes_reader_died",
            Failure::Server(_) => "internal_server_error",
        }
    }

    /// The reason for people: one line.
    pub fn reason(&self) -> String {
        match self {
            Failure::DbNotFound(what) => format!("could not open {what}"),
            Failure::Gone(what) => format!("{what} was deleted"),
            Failure::Unauthorized(text)
            | Failure::Forbidden(text)
            | Failure::CannotCreate(text)
            | Failure::BadRequest(text)
            | Failure::FilterFetch(text)
            | Failure::AddressRefused(text)
            | Failure::CheckpointCommit(text)
            | Failure::Network(text)
            | Failure::Protocol(text)
            | Failure::Changes(text) => text.clone(),
            Failure::Status { status, text } => format!("{text}: status {status}"),
            Failure::Server(error) => error.to_string(),
        }
    }

    /// Whether the peer has too much to do now.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Failure::Status { status: 429 | 503, .. })
    }

    /// Whether the next attempt will fail in the same way, until somebody changes the job, an account or a
    /// setting.
    pub fn is_permanent(&self) -> bool {
        match self {
            Failure::Unauthorized(_) | Failure::Forbidden(_) | Failure::BadRequest(_) | Failure::AddressRefused(_) => {
                true
            }
            Failure::DbNotFound(_)
            | Failure::CannotCreate(_)
            | Failure::FilterFetch(_)
            | Failure::CheckpointCommit(_)
            | Failure::Network(_)
            | Failure::Status { .. }
            | Failure::Protocol(_)
            | Failure::Changes(_)
            | Failure::Gone(_)
            | Failure::Server(_) => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.word(), self.reason())
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Unauthorized(text) => Failure::Unauthorized(text),
            Error::Forbidden(text) => Failure::Forbidden(text),
            other => Failure::Server(other),
        }
    }
}
