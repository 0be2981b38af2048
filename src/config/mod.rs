//! Settings, lowest precedence first: defaults < file < environment < flags < settings persisted over HTTP.
//!
//! ```text
//! live     (base < persisted < this run only)  ->  Settings: one immutable snapshot, taken per request
//! ```
//! `cli::args` reads the command line, and `cli::sources` the base: defaults, file, environment, flags.
//!
//! Every layer uses CouchDB's sections and keys as text. `catalogue` lists the known settings, and `kind`
//! checks each value, whatever its source. Callers pass settings down as values; nothing here is global.

pub mod catalogue;
pub mod encryption;
pub mod kind;
pub mod live;
pub mod networks;
pub mod settings;
pub mod source;
pub mod tls;

pub use self::live::Live;
pub use self::settings::{Settings, Table};
