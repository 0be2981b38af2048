//! `_find`, `_index` and views.

pub(crate) mod find;
pub(crate) mod view;
