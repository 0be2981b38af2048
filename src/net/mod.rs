//! The network apart from clients' requests: outgoing HTTP, TLS, ACME.

pub mod acme;
pub mod blocking;
mod connector;
pub mod crypto_provider;
pub mod header_text;
pub mod http_client;
pub mod multipart;
pub mod tls;

#[cfg(test)]
pub mod tests;
