//! Connections: accepting, TLS, repair of request lines, time limits of writing.

pub mod listener;
pub(crate) mod request_line;
pub(crate) mod write_timeout;
