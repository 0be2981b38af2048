//! Requests: the target, the query, the headers, the body and the client.

pub mod accept;
pub mod body;
pub mod client_address;
pub mod decoded;
pub mod etag;
pub mod form;
pub mod json_text;
pub mod listing_path;
pub mod lone_surrogates;
pub mod query;
pub mod target;

pub use self::accept::{accepts, wanted};
pub use self::decoded::Request;
pub use self::etag::{etag_of, matches_etag};
pub(crate) use self::form::read_form;
pub use self::json_text::{invalid_json, too_deep};
pub use self::query::{Query, query_error};
pub use self::target::{Target, Verb};
