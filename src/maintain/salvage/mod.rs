//! `settee check --salvage`: copies what a damaged data folder still holds into a new folder, and lists what
//! is lost.
//!
//! The damaged folder is read through a copy of its store (`store::embedded::data_folder::salvage`) and is
//! never modified. Salvage copies:
//!
//! - settings, accounts, and every database whose name or number is known, with its `_security`, `_local`
//!   documents and purge requests;
//! - every revision of a document whose body verifies. A leaf without a readable body is replaced by its
//!   nearest ancestor that has one. A document without a readable record is rebuilt from its row in the
//!   changes order, without its history;
//! - every attachment that matches its length and digest. A revision that has lost an attachment is kept
//!   without it.
//!
//! The counters are computed from the copied documents, so that the new folder passes `settee check`. As
//! after a restore, each database gets a new instance id, so that clients read its changes from the start. A
//! lost `_security` is replaced by one that admits only admins.

mod bodies;
mod database;
mod documents;
mod folder;
mod state;

pub use self::folder::salvage;
pub use self::state::Salvaged;
