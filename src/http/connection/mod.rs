//! Connections: accepting, TLS, HTTP/1.1 and HTTP/2, repair of request lines, time limits of writing.

pub(crate) mod http1;
pub(crate) mod http2;
pub mod listener;
pub(crate) mod preface;
pub mod received;
pub(crate) mod request_line;
pub(crate) mod write_timeout;
