//! Endpoints of the console, the web page at `/_utils/`. `docs/console-api.md` describes them.

pub mod audit;
pub mod backups;
pub mod check;
pub mod conflicts;
pub mod files;
pub mod history;
pub mod livesync_link;
pub mod logs;
pub mod settings;
pub mod sync;
pub mod sync_alerts;
pub mod try_function;
pub mod views;
