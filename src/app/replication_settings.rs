//! The settings of replications, read from `[replicator]` and `[replicator.shares]`.

use std::time::Duration;

use crate::config::Settings;
use crate::replicate::parameters::parse::Defaults;
use crate::replicate::scheduler;

/// The values of parameters that a replication does not set.
pub fn defaults(settings: &Settings) -> Defaults {
    let number = |key| settings.number("replicator", key);
    let flag = |key| settings.flag("replicator", key);
    let protocols = settings.get("replicator", "valid_endpoint_protocols").unwrap_or_default();
    Defaults {
        connection_timeout: number("connection_timeout"),
        retries_per_request: number("retries_per_request"),
        http_connections: number("http_connections"),
        worker_processes: number("worker_processes"),
        worker_batch_size: number("worker_batch_size"),
        checkpoint_interval: number("checkpoint_interval"),
        use_checkpoints: flag("use_checkpoints"),
        use_bulk_get: flag("use_bulk_get"),
        allows_http: protocols.split(',').any(|protocol| protocol.trim() == "http"),
    }
}

/// The scheduler's settings.
pub fn scheduler_settings(settings: &Settings) -> scheduler::Settings {
    let number = |key| settings.number("replicator", key);
    let size = |key| usize::try_from(number(key)).unwrap_or(usize::MAX);
    let shares = settings.table().get("replicator.shares").into_iter().flatten();
    scheduler::Settings {
        max_jobs: size("max_jobs"),
        max_churn: size("max_churn"),
        interval: Duration::from_millis(number("interval")),
        startup_jitter: Duration::from_millis(number("startup_jitter")),
        max_history: size("max_history"),
        health_threshold: Duration::from_secs(number("health_threshold")),
        shares: shares.filter_map(|(name, shares)| Some((name.clone(), shares.parse().ok()?))).collect(),
    }
}
