//! Mango: selectors, the planner, `_find` and `_index`.

pub mod find;
pub mod planner;
pub(crate) mod request;
pub mod selector;
