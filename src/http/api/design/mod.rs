//! Functions of design documents: show, list, update, rewrite.

pub(crate) mod functions;
pub(crate) mod list_function;
pub mod rewrite;
pub(crate) mod show_and_update;
