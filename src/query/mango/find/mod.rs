//! `_find`: requests, index management and the execution of queries.

pub(crate) mod all_docs;
pub(crate) mod bookmark;
pub(crate) mod fields;
pub(crate) mod indexes;
pub(crate) mod manage;
pub(crate) mod rows;
pub(crate) mod search;
pub(crate) mod stored;

pub use self::bookmark::Bookmark;
pub use self::fields::Projection;
pub use self::indexes::indexes;
pub use self::manage::{bulk_delete, create_index, delete_index};
pub use self::rows::{Row, Rows};
pub use self::search::{Search, Stats};
pub use self::stored::prefix;

#[cfg(test)]
mod tests;
