//! Queries: selectors and the Mango planner; design documents, their JavaScript functions and their views.

pub mod changes_filter;
pub(crate) mod cleanup;
pub mod design;
pub mod index;
pub(crate) mod index_list;
pub mod mango;
pub mod script;
pub mod validation;
pub mod view;

pub use self::index::snapshot::Histories;
