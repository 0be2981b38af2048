//! Writing documents: parsing, preparing an edit, merging it into the record, and the writer.

pub mod document_edits;
pub(crate) mod edit;
pub(crate) mod local;
pub mod parse;
pub(crate) mod validate;
pub(crate) mod writer;
