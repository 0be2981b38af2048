//! Attachment content, addressed by its digest.

pub mod blobs;
pub(crate) mod file_format;
pub(crate) mod files;
pub(crate) mod memory;
