//! From a path to its handler: the route, the access it requires, the dispatch.

pub mod cross_site;
pub mod dispatch;
pub mod replicator;
pub mod required_access;
pub mod route;
pub mod route_table;
