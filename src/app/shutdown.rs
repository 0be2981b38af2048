//! The stages of an orderly shutdown, and waiting for them.

use tokio::sync::watch;

/// Announces that the server is about to stop or to restart.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Sender<Stage>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Restarting,
    Stopping,
}

impl Shutdown {
    /// Not begun.
    pub fn new() -> Shutdown {
        Shutdown(watch::Sender::new(Stage::Running))
    }

    /// Begins: nothing new is accepted, live feeds end, what is at work is finished.
    pub fn begin(&self) {
        self.0.send_replace(Stage::Stopping);
    }

    /// The same, but the server is to come up again. Stopping for good is not taken back.
    pub fn begin_restart(&self) {
        self.0.send_if_modified(|stage| {
            let begins = *stage == Stage::Running;
            if begins {
                *stage = Stage::Restarting;
            }
            begins
        });
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() != Stage::Running
    }

    /// Whether the server is to come up again.
    pub fn is_restart(&self) -> bool {
        *self.0.borrow() == Stage::Restarting
    }

    /// Waits until it begins. Feeds wait for this beside their next change.
    pub async fn begun(&self) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|stage| *stage != Stage::Running).await;
    }
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown::new()
    }
}
