//! Starting and stopping the server, and its background jobs.

pub mod bootstrap;
pub mod jobs;
pub mod local;
pub mod scratch;
pub mod signals;
pub mod start;
pub mod systemd;
