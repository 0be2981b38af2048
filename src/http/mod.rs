//! HTTP: the only layer that knows status codes and headers.
//!
//! ```text
//! server (connections) -> request (decode) -> route -> signin, access -> handlers -> answer (encode)
//! ```
//! A handler is `async fn(&Arc<App>, &mut Request, ...) -> Result<Answer>`: it decodes the request, makes one
//! domain call and encodes the response.

pub mod access;
pub mod answer;
pub mod body;
pub mod cors;
pub mod failure;
pub mod handlers;
pub mod jsonp;
pub(crate) mod lenient;
mod patient;
pub mod peer;
pub mod request;
pub mod route;
pub mod server;
pub mod signals;
pub mod signin;
pub mod standing;
pub mod start;
pub mod stream;

pub use self::answer::Answer;
pub use self::failure::{Failure, Result};
pub use self::request::{Query, Request};
pub use self::start::{Options, Running, start};
pub use crate::app::{App, blocking};

#[cfg(test)]
mod tests;
