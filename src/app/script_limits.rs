//! The limits of design functions, read from the settings.

use std::time::Duration;

use crate::config::Settings;
use crate::query::script::{Limits, ReduceLimit};

/// The limits that the settings give to scripts (`[couchdb] os_process_timeout`, `[query_server_config]`).
pub fn script_limits(settings: &Settings) -> Limits {
    let of = |key| settings.get("query_server_config", key);
    let default = Limits::default();
    Limits {
        timeout: Duration::from_millis(settings.number("couchdb", "os_process_timeout")),
        processes: of("os_process_limit").and_then(|most| most.parse().ok()).unwrap_or(default.processes),
        all_memory: of("max_script_memory").and_then(|bytes| bytes.parse().ok()).unwrap_or(default.all_memory),
        reduce_limit: match of("reduce_limit") {
            Some("false") => ReduceLimit::Off,
            Some("log") => ReduceLimit::Log,
            _ => ReduceLimit::On,
        },
        reduce_limit_threshold: of("reduce_limit_threshold")
            .and_then(|bytes| bytes.parse().ok())
            .unwrap_or(default.reduce_limit_threshold),
        reduce_limit_ratio: of("reduce_limit_ratio")
            .and_then(|ratio| ratio.parse().ok())
            .unwrap_or(default.reduce_limit_ratio),
        ..default
    }
}
