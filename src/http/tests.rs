//! Tests of the HTTP layer over a real socket; most are tables of requests and expected responses.

mod access;
mod accounts;
mod bounds;
mod client;
mod config;
mod documents;
mod faults;
mod frame;
mod metrics;
mod replication;
mod scripts;
mod session;
mod sync;
mod tls;
mod two_nodes;
mod views;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use serde_json::Value;

use crate::app::Recent;
use crate::clock::Clock;
use crate::config::Table;
use crate::config::source::Sources;
use crate::server::start::{Options, Running, start};
use crate::store::memory::Memory;
use crate::store::{MemoryBlobs, Store};

pub use self::client::{Client, Reply, ask};

const JSON: &str = "Content-Type: application/json";

/// Starts a server on a memory store, with the admin `ann`, whose password is `secret` and hashed with one
/// iteration.
pub async fn server(rows: &[(&str, &str, &str)]) -> Running {
    server_on(rows, Arc::new(Memory::new())).await
}

/// Like [`server`], on the given store, which may contain data.
pub async fn server_on(rows: &[(&str, &str, &str)], store: Arc<dyn Store>) -> Running {
    server_at(rows, store, Clock::system()).await
}

/// Like [`server_on`], with the time of `clock`.
pub async fn server_at(rows: &[(&str, &str, &str)], store: Arc<dyn Store>, clock: Clock) -> Running {
    let mut base = Table::new();
    for (section, key, value) in [("chttpd_auth", "iterations", "1")].iter().chain(rows) {
        base.entry((*section).into()).or_default().insert((*key).into(), (*value).into());
    }
    start(Options {
        base,
        sources: Sources::new(),
        admins: vec![("ann".into(), "secret".into())],
        store,
        indexes: None,
        blobs: Arc::new(MemoryBlobs::new()),
        clock,
        recent: Recent::default(),
        backup_key: None,
    })
    .await
    .unwrap()
}

/// Authenticates as `ann` with the password `secret`.
pub const ADMIN: &str = "Authorization: Basic YW5uOnNlY3JldA==";

/// Panics if `work` takes longer than 20 s.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("in time")
}

/// The authentication header of a name and a password.
fn basic(name: &str, password: &str) -> String {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
    format!("Authorization: Basic {pair}")
}

/// Sends JSON with the authentication header `who`; `""` sends none.
async fn send(running: &Running, line: &str, who: &str, body: Value) -> Reply {
    let mut headers = vec![JSON, "Accept: application/json"];
    headers.extend((!who.is_empty()).then_some(who));
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    ask(running.address, line, &headers, &body).await
}
