//! What a request for revisions asks for, and what its answer has.

use tokio::sync::SemaphorePermit;

use super::arrived::Unfit;
use super::connection::Connection;
use super::text::shown;
use crate::error::Error;
use crate::replicate::failure::Failure;
use crate::replicate::peer::Document;
use crate::rev::Revision;

/// Bytes of documents that an answer may have without a permit: see [`Found::may_have`].
const SMALL: usize = 512 << 10;

/// Bytes of documents that are read before they are handed over.
pub(crate) const AT_ONCE: usize = 8 << 20;

/// What was asked for.
pub(super) struct Asked<'a, 'c> {
    pub connection: &'c Connection<'c>,
    pub id: &'a str,
    pub revisions: &'a [Revision],
    /// Whether attachments may be left out.
    pub has_ancestors: bool,
}

/// What one answer had.
#[derive(Default)]
pub(super) struct Found<'a> {
    pub documents: Vec<Document>,
    /// Bytes of these, and of those of earlier answers that are not handed over yet.
    pub bytes: usize,
    /// The permit for large documents.
    pub large: Option<SemaphorePermit<'a>>,
    /// It has more than it may without that permit: it is asked for again with it.
    pub is_put_off: bool,
    /// Why one of the revisions cannot be taken.
    pub too_much: Option<String>,
    /// Why the answer does not belong to the protocol.
    pub wrong: Option<String>,
}

impl<'a> Found<'a> {
    /// Takes a document.
    pub fn add(&mut self, document: Document) {
        self.bytes += document.bytes();
        self.documents.push(document);
    }

    /// Whether `bytes` more may be in memory in addition to these documents. Dozens of answers are read at a time, and
    /// few of them may be large. A large answer for which there is no permit now is cancelled, and requested again when
    /// there is one: the server would time out an answer that nobody reads, and others would wait for its connection.
    pub fn may_have(&mut self, connection: &'a Connection<'a>, bytes: usize) -> bool {
        if self.bytes + bytes <= SMALL || self.large.is_some() {
            return true;
        }
        self.large = connection.large.try_acquire().ok();
        self.is_put_off = self.large.is_none();
        !self.is_put_off
    }

    pub fn unfit(&mut self, unfit: Unfit) {
        match unfit {
            Unfit::Wrong(why) => self.wrong = Some(why),
            Unfit::TooMuch(why) => self.too_much = Some(why),
            Unfit::PutOff => self.is_put_off = true,
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
