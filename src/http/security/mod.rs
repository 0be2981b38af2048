//! Authentication of a request, and authorization of requests and feeds that stay open.

pub mod authenticate;
pub mod authorization;
