//! Documents, attachments, `_local` documents and the bulk endpoints.

pub(crate) mod attachment;
pub(crate) mod body_writer;
pub(crate) mod bulk;
pub mod bulk_entries;
pub(crate) mod get;
pub(crate) mod include_docs;
pub(crate) mod incoming;
pub(crate) mod local;
pub mod multipart_in;
pub(crate) mod multipart_out;
pub mod open_revs;
pub(crate) mod put;
pub mod write;
