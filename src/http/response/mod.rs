//! Answers: their builders, bodies, errors and encodings.

pub mod answer;
pub mod body;
pub mod compression;
pub mod cors;
pub mod error;
pub(crate) mod guard;
pub mod jsonp;
pub mod producer;

pub use self::answer::{Answer, content_type_of, sandbox};
