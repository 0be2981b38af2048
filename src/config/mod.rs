//! Settings: defaults < file < environment < flags < what was persisted over HTTP.
//!
//! ```text
//! command  (the command line)  ->  what is asked for
//! sources  (file, environment, flags)  ->  Start: where to run, and the base table
//! live     (base < persisted < this run only)  ->  Settings: one immutable snapshot, taken per request
//! ```
//! Every layer speaks CouchDB's sections and keys as text; `catalogue` lists what is known and checks it wherever it comes
//! from. Settings are handed down as values; nothing here is global.

pub mod catalogue;
pub mod command;
pub mod encryption;
pub mod live;
pub mod networks;
pub mod settings;
pub mod sources;
pub mod tls;

pub use command::Command;
pub use live::Live;
pub use settings::{Settings, Table};
pub use sources::Start;
