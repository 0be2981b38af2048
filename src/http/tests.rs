//! The frame and the server's own endpoints over a real socket, as rows.

mod access;
mod accounts;
mod bounds;
mod client;
mod config;
mod faults;
mod frame;
mod scripts;
mod session;
mod tls;
mod views;

use std::sync::Arc;
use std::time::Duration;

use super::start::{Options, Running, start};
use crate::clock::Clock;
use crate::config::Table;
use crate::store::memory::Memory;
use crate::store::{MemoryBlobs, Store};
pub use client::{Client, Reply, ask};

/// A server in memory with the admin `ann`, password `secret`, hashed with few steps.
pub async fn server(rows: &[(&str, &str, &str)]) -> Running {
    server_on(rows, Arc::new(Memory::new())).await
}

/// The same on a store that may hold something already.
pub async fn server_on(rows: &[(&str, &str, &str)], store: Arc<dyn Store>) -> Running {
    let mut base = Table::new();
    for (section, key, value) in [("chttpd_auth", "iterations", "1")].iter().chain(rows) {
        base.entry((*section).into()).or_default().insert((*key).into(), (*value).into());
    }
    start(Options {
        base,
        admins: vec![("ann".into(), "secret".into())],
        store,
        blobs: Arc::new(MemoryBlobs::new()),
        clock: Clock::system(),
    })
    .await
    .unwrap()
}

/// `ann:secret`.
pub const ADMIN: &str = "Authorization: Basic YW5uOnNlY3JldA==";

/// Fails a test that hangs.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("in time")
}
