//! A server for one command: it serves the data folder of a stopped server to this process alone, without a network.
//! Commands such as `settee livesync` use it in place of a running server.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::start::{self, Options, Prepared};
use crate::app::{App, Recent};
use crate::clock::Clock;
use crate::config::Table;
use crate::config::source::Sources;
use crate::store::Store;
use crate::store::blob::blobs::Blobs;

/// The server. It ends, and closes the store, when it is dropped.
pub struct LocalServer {
    runtime: Option<Runtime>,
    app: Arc<App>,
}

impl LocalServer {
    /// Serves an open store. Creates no admin and no secrets: those may come from settings of the real server that
    /// this process does not know.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn start(store: Arc<dyn Store>, blobs: Arc<dyn Blobs>) -> Result<LocalServer, String> {
        let clock = Clock::system();
        let mut base = Table::new();
        for (section, key) in [("couchdb", "uuid"), ("chttpd_auth", "secret"), ("admins", "_offline")] {
            // A persisted value counts before it. No password has this text as its hash.
            let value = if section == "admins" { "-pbkdf2-00,00,1".to_owned() } else { clock.uuid() };
            base.entry(section.into()).or_default().insert(key.into(), value);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .worker_threads(2)
            .build()
            .map_err(|error| format!("no threads: {error}"))?;
        let prepared = runtime.block_on(async {
            let options = Options {
                base,
                sources: Sources::new(),
                admins: Vec::new(),
                store,
                indexes: None,
                blobs,
                clock,
                recent: Recent::default(),
                backup_key: None,
            };
            let Prepared { app, .. } = start::prepare(options).await?;
            super::bootstrap::settle_all(&app).await?;
            crate::error::Result::Ok(app)
        });
        let app = prepared.map_err(|error| error.to_string())?;
        Ok(LocalServer { runtime: Some(runtime), app })
    }

    /// Opens a connection whose requests have the rights of a server admin.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        if let Some(runtime) = &self.runtime {
            let _entered = runtime.enter();
            let theirs = tokio::net::UnixStream::from_std(theirs)?;
            runtime.spawn(start::serve_owner(self.app.clone(), theirs));
        }
        Ok(ours)
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.app.shutdown.begin();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}
