//! Documents, attachments, `_local` documents and the bulk endpoints.

pub(crate) mod attachment;
mod attachment_upload;
pub(crate) mod body_writer;
pub(crate) mod bulk_docs;
mod bulk_entries;
pub(crate) mod bulk_get;
mod edit;
pub(crate) mod get;
pub(crate) mod include_docs;
pub(crate) mod incoming;
pub(crate) mod local;
pub mod multipart_in;
pub(crate) mod multipart_out;
pub mod open_revs;
pub(crate) mod put;
mod refusal;
pub(crate) mod revision;
pub(crate) mod revs_diff;
pub mod write;
