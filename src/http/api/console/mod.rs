//! Endpoints of the console, the web page at `/_utils/`. `docs/console-api.md` describes them.

pub mod conflicts;
pub mod files;
