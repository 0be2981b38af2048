//! What a request for revisions asks for, and what its answer has.

use super::arrived::Unfit;
use super::connection::Connection;
use super::text::shown;
use crate::error::Error;
use crate::replicate::failure::Failure;
use crate::replicate::peer::Document;
use crate::rev::Revision;

/// Bytes of documents that are read before they are handed over.
pub(super) const AT_ONCE: usize = 8 << 20;

/// What was asked for.
pub(super) struct Asked<'a> {
    pub connection: &'a Connection<'a>,
    pub id: &'a str,
    pub revisions: &'a [Revision],
    /// Whether attachments may be left out.
    pub has_ancestors: bool,
}

/// What one answer had.
#[derive(Default)]
pub(super) struct Found {
    pub documents: Vec<Document>,
    /// Why one of the revisions cannot be taken.
    pub too_much: Option<String>,
    /// Why the answer does not belong to the protocol.
    pub wrong: Option<String>,
}

impl Found {
    pub fn unfit(&mut self, unfit: Unfit) {
        match unfit {
            Unfit::Wrong(why) => self.wrong = Some(why),
            Unfit::TooMuch(why) => self.too_much = Some(why),
        }
    }
}

/// Why an attachment is passed over.
pub(super) fn too_large(name: &str) -> Unfit {
    Unfit::TooMuch(format!("attachment {} is too large", shown(name)))
}

/// A blocking call has ended early: the server stops.
pub(super) fn ended(_: tokio::task::JoinError) -> Failure {
    Failure::Server(Error::Internal("a call ended early".into()))
}
