//! The handlers: one file for each resource, named after its endpoint.

pub mod console;
pub mod database;
pub mod design;
pub mod document;
pub mod feed;
pub mod query;
pub mod server;
pub mod session;
