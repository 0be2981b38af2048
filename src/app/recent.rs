//! The newest log lines and audit events, for the console. `main` connects it to the log.

use crate::audit::recent::RecentEvents;
use crate::log::recent::RecentLines;

/// The newest lines of the log and the newest audit events. A cheap handle.
#[derive(Clone, Default)]
pub struct Recent {
    pub log: RecentLines,
    pub audit: RecentEvents,
}
