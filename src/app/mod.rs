//! What every handler can reach.

pub mod active_tasks;
pub mod admins;
pub(crate) mod anomalies;
pub mod answer_budget;
pub mod body_budget;
pub mod conflict_indexes;
pub(crate) mod disk_use;
pub mod feed_wakes;
pub(crate) mod hash_queue;
pub mod hints;
pub mod history;
pub mod leases;
pub mod long_work;
pub mod metrics;
pub mod node;
pub mod nodes;
pub mod process;
pub mod rate_limits;
pub mod recent;
pub mod replication_settings;
pub mod replications;
pub mod script_limits;
pub mod security_events;
pub mod shutdown;
pub mod state;
pub mod sync;
pub mod user_store;
pub mod uuids;

pub use self::recent::Recent;
pub use self::state::{App, default_security};
