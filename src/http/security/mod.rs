//! Authentication of a request.

pub mod authenticate;
