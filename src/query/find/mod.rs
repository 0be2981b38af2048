//! `_find`: requests, index management and the execution of queries.

mod all_docs;
mod bookmark;
mod fields;
mod indexes;
mod manage;
mod request;
mod rows;
mod search;
mod stored;

pub use self::bookmark::Bookmark;
pub use self::fields::Projection;
pub use self::indexes::indexes;
pub use self::manage::{bulk_delete, create_index, delete_index};
pub use self::request::{Direction, FindRequest, Sort};
pub(in crate::query) use self::request::{Members, non_empty_string, positive, string, use_index};
pub use self::rows::{Row, Rows};
pub use self::search::{Search, Stats};
pub use self::stored::prefix;

#[cfg(test)]
mod tests;
