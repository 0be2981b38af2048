//! `_find`: what is asked, and how it is answered.

mod fields;
mod request;

pub use fields::Projection;
pub use request::{Direction, FindRequest, Sort};
pub(in crate::query) use request::{Members, non_empty_string, positive, string, use_index};
