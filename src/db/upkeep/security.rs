//! Read-modify-write of the `_security` object within a commit.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::db::Database;
use crate::db::commit::draft::Draft;
use crate::db::commit::queue::Work;
use crate::error::Result;

/// Gets the JSON text of the `_security` object and returns the new text; `None` if nothing changes. May be
/// called more than once.
type Changing = Box<dyn FnMut(&str) -> Result<Option<String>> + Send>;

struct ChangeSecurity {
    database: Arc<Database>,
    change: Changing,
    /// The text that is in force after the commit.
    after: String,
    reply: oneshot::Sender<Result<()>>,
}

impl Database {
    /// Changes the `_security` object: `change` gets the stored JSON text and returns the new one, or `None`
    /// to keep it. The writer runs it within its commit, so a `PUT _security` that came before is never
    /// undone. `change` may be called more than once.
    pub async fn change_security(
        self: &Arc<Self>,
        change: impl FnMut(&str) -> Result<Option<String>> + Send + 'static,
    ) -> Result<()> {
        let database = self.clone();
        self.submit(|reply| ChangeSecurity { database, change: Box::new(change), after: String::new(), reply }).await
    }
}

impl Work for ChangeSecurity {
    fn ids(&self) -> Vec<String> {
        Vec::new()
    }

    fn bytes(&self) -> usize {
        100
    }

    fn apply(&mut self, draft: &mut Draft) -> Result<()> {
        self.after = draft.change_security(&mut self.change)?;
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        if committed.is_ok() && *self.database.security() != *self.after {
            self.database.security_written(&self.after);
        }
        let _ = self.reply.send(committed);
    }
}
