//! The stages of an orderly shutdown, and waiting for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Announces that the server is about to stop or to restart.
#[derive(Debug, Clone)]
pub struct Shutdown(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stage: watch::Sender<Stage>,
    /// Set before the stage is: connections look at it with each request, and take no lock for that.
    begun: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Restarting,
    Stopping,
}

impl Shutdown {
    /// The state of a running server.
    pub fn new() -> Shutdown {
        let (stage, begun) = (watch::Sender::new(Stage::Running), AtomicBool::new(false));
        Shutdown(Arc::new(Shared { stage, begun }))
    }

    /// Begins the shutdown: new requests are refused, live feeds end, running requests finish.
    pub fn begin(&self) {
        self.0.begun.store(true, Ordering::Release);
        self.0.stage.send_replace(Stage::Stopping);
    }

    /// Begins a shutdown after which the server starts again. Does not replace a shutdown that has begun.
    pub fn begin_restart(&self) {
        self.0.begun.store(true, Ordering::Release);
        self.0.stage.send_if_modified(|stage| {
            let begins = *stage == Stage::Running;
            if begins {
                *stage = Stage::Restarting;
            }
            begins
        });
    }

    /// Whether the shutdown has begun.
    pub fn has_begun(&self) -> bool {
        self.0.begun.load(Ordering::Acquire)
    }

    /// Whether the server starts again after the shutdown.
    pub fn is_restart(&self) -> bool {
        *self.0.stage.borrow() == Stage::Restarting
    }

    /// Waits until the shutdown begins. A feed waits for this and for its next change.
    pub async fn begun(&self) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.0.stage.subscribe().wait_for(|stage| *stage != Stage::Running).await;
    }
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown::new()
    }
}
