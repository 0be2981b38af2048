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
#[cfg(test)]
mod tests;

pub use bookmark::Bookmark;
pub use fields::Projection;
pub use indexes::indexes;
pub use manage::{bulk_delete, create_index, delete_index};
pub use request::{Direction, FindRequest, Sort};
pub(in crate::query) use request::{Members, non_empty_string, positive, string, use_index};
pub use rows::{Row, Rows};
pub use search::{Search, Stats};
pub use stored::prefix;
