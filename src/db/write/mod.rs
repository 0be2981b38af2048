//! Writing documents: parsing, preparing an edit, merging it into the record, and the writer.

pub mod document_edits;
pub(crate) mod edit;
pub(crate) mod incoming;
pub(crate) mod local;
pub mod parse;
mod prepare;
pub(crate) mod validate;
pub(crate) mod writer;
mod writer_task;
