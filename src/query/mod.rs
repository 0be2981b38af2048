//! Queries: selectors and the Mango planner; design documents and their views.

pub mod selector;
