//! The document edits of one request, as work for the writer.

use tokio::sync::oneshot;

use super::validate::Guard;
use crate::db::commit::draft::Draft;
use crate::db::commit::prepared_edit::{Edit, Mode};
use crate::db::commit::queue::{Frees, Work};
use crate::error::Result;
use crate::rev::Revision;

/// A request's document edits, the most common work.
pub(crate) struct Edits {
    edits: Vec<Edit>,
    mode: Mode,
    guard: Option<Box<dyn Guard>>,
    results: Vec<Result<Revision>>,
    /// How many edits are committed.
    done: usize,
    reply: oneshot::Sender<Result<Vec<Result<Revision>>>>,
}

impl Edits {
    pub fn new(
        edits: Vec<Edit>,
        mode: Mode,
        guard: Option<Box<dyn Guard>>,
        reply: oneshot::Sender<Result<Vec<Result<Revision>>>>,
    ) -> Edits {
        Edits { edits, mode, guard, results: Vec::new(), done: 0, reply }
    }
}

impl Work for Edits {
    fn ids(&self) -> Vec<String> {
        self.edits[self.done..].iter().map(|edit| edit.id.clone()).collect()
    }

    fn bytes(&self) -> usize {
        self.edits.iter().map(|edit| edit.body.json.len() + 200).sum()
    }

    fn check(&self) -> Result<()> {
        self.guard.as_ref().map_or(Ok(()), |guard| guard.check())
    }

    fn check_at_once(&self) -> Option<Result<()>> {
        self.guard.as_ref().map_or(Some(Ok(())), |guard| guard.check_at_once())
    }

    fn is_light(&self) -> bool {
        true
    }

    fn apply(&mut self, draft: &mut Draft) -> Result<()> {
        self.results.truncate(self.done);
        for edit in &self.edits[self.done..] {
            if !draft.holds(&edit.id) {
                break;
            }
            self.results.push(draft.edit(edit, self.mode));
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.results.len() == self.edits.len()
    }

    fn committed(&mut self) {
        self.done = self.results.len();
    }

    fn frees(&self) -> Frees {
        Frees::WhenSmaller
    }

    fn is_write(&self) -> bool {
        true
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let Edits { mut results, reply, edits, done, .. } = *self;
        let answer = match committed {
            // The first edits are committed: only the others have failed.
            Err(error) if done > 0 => {
                results.truncate(done);
                results.resize_with(edits.len(), || Err(error.clone()));
                Ok(results)
            }
            committed => committed.map(|()| results),
        };
        // Release the pins first: a caller that has its answer may expect the sweep to see the blobs
        // unpinned.
        drop(edits);
        let _ = reply.send(answer);
    }
}
