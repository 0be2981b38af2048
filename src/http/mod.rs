//! HTTP: the only layer that knows status codes and headers.
//!
//! ```text
//! connection (listen) -> pipeline: request (decode) -> routing (route) -> security (authenticate)
//!                         -> access -> api (handler) -> response (encode)
//! ```
//! A handler is `async fn(&Arc<App>, &mut Request, ...) -> Result<Answer>`: it decodes the request, makes one
//! domain call and encodes the response.

pub mod api;
pub mod connection;
pub mod pipeline;
pub mod request;
pub mod response;
pub mod routing;
pub mod security;

#[cfg(test)]
mod tests;
