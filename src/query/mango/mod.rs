//! Mango: selectors, the planner, `_find` and `_index`.

pub(crate) mod error;
pub mod find;
pub mod planner;
pub(crate) mod request;
pub mod selector;
