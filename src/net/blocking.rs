//! The HTTP client for callers on threads that may block.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::runtime::Handle;

use super::http_client::{HttpClient, HttpError, Limits};

/// Fetches documents on a runtime, and blocks the calling thread meanwhile. Must not be called on the
/// runtime's async threads.
#[derive(Clone)]
pub struct BlockingClient {
    client: HttpClient,
    runtime: Handle,
}

impl BlockingClient {
    /// `runtime` runs the requests.
    pub fn new(client: HttpClient, runtime: Handle) -> BlockingClient {
        BlockingClient { client, runtime }
    }

    /// [`HttpClient::get`], blocking.
    pub fn get(&self, url: &str, limits: Limits) -> Result<Bytes, HttpError> {
        let (done, fetched) = sync_channel(1);
        let (client, url) = (self.client.clone(), url.to_owned());
        self.runtime.spawn(async move {
            let _ = done.send(client.get(&url, limits).await);
        });
        // The task has its own limit and reports it. It reports nothing if the runtime shuts down, where
        // `Handle::block_on` would panic.
        fetched.recv_timeout(limits.time + Duration::from_secs(1)).unwrap_or(Err(HttpError::TimedOut(limits.time)))
    }
}
