//! Queries: selectors and the Mango planner; design documents, their JavaScript functions and their views.

pub mod design;
pub mod find;
mod history;
mod packed;
pub mod planner;
pub mod script;
pub mod selector;
pub mod validation;
pub mod view;

pub use self::history::Histories;
