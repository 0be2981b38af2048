//! Settings, lowest precedence first: defaults < file < environment < flags < settings persisted over HTTP.
//!
//! ```text
//! command  (the command line)                  ->  Command: the requested action
//! sources  (file, environment, flags)          ->  Start: where to run, and the base table
//! live     (base < persisted < this run only)  ->  Settings: one immutable snapshot, taken per request
//! ```
//! Every layer uses CouchDB's sections and keys as text. `catalogue` lists the known settings and checks each
//! value, whatever its source. Callers pass settings down as values; nothing here is global.

pub mod catalogue;
pub mod encryption;
pub mod live;
pub mod networks;
pub mod settings;
pub mod tls;

pub use self::live::Live;
pub use self::settings::{Settings, Table};
pub use crate::cli::args::Command;
pub use crate::cli::sources::Start;
