//! Holding all writes of a database while a backup copies it.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::db::Database;
use crate::db::commit::draft::Draft;
use crate::db::commit::queue::Work;
use crate::error::Result;

/// Blocks a database's writer until it is dropped.
pub struct Hold(#[allow(dead_code, reason = "dropping it ends the hold")] std::sync::mpsc::Sender<()>);

struct Held {
    reply: Option<(oneshot::Sender<Result<Hold>>, Hold)>,
    release: std::sync::mpsc::Receiver<()>,
}

impl Work for Held {
    fn ids(&self) -> Vec<String> {
        Vec::new()
    }

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&mut self, _: &mut Draft) -> Result<()> {
        if let Some((reply, hold)) = self.reply.take()
            && reply.send(Ok(hold)).is_ok()
        {
            // Ends when the hold is dropped.
            let _ = self.release.recv();
        }
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        if let (Some((reply, _)), Err(error)) = (self.reply, committed) {
            let _ = reply.send(Err(error));
        }
    }
}

impl Database {
    /// Blocks the writer until the returned [`Hold`] is dropped: meanwhile the database does not change, and
    /// writes wait. Used for the last pass of a backup. The holder must not wait without a time
    /// limit for anything outside this process.
    pub async fn hold(self: &Arc<Self>) -> Result<Hold> {
        let (held, release) = std::sync::mpsc::channel();
        self.submit(|reply| Held { reply: Some((reply, Hold(held))), release }).await
    }
}
