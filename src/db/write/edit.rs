//! Writes the edits of one call: prepares them, has them validated, and submits them to the writer.

use std::sync::Arc;

use super::document_edits::Edits;
use super::incoming::{Incoming, Source};
use super::validate::Validate;
use crate::db::Database;
use crate::db::commit::prepared_edit::Mode;
use crate::error::{Error, Result};
use crate::rev::Revision;

/// Bytes of JSON that are hashed on an async thread. Hashing up to this size is cheaper than a thread
/// hand-off.
const HASHED_INLINE: usize = 64 << 10;

/// Whether edits can be prepared without reading and without much computation.
fn is_light(incoming: &[Incoming], mode: Mode) -> bool {
    let plain =
        incoming.iter().all(|edit| edit.attachments.iter().all(|(_, source)| matches!(source, Source::Written { .. })));
    let hashed = match mode {
        Mode::Interactive => incoming.iter().map(|edit| edit.json.len()).sum(),
        Mode::Replicated => 0,
    };
    plain && hashed <= HASHED_INLINE
}

impl Database {
    /// Writes `incoming`. Each edit succeeds or fails on its own: returns one result per edit, in order. The
    /// edits are durable on return.
    ///
    /// Returns the new revisions in interactive mode, and the given revisions in replicated mode.
    ///
    /// # Errors
    /// Per edit: `Conflict`, or the verdict of `validate`. For the whole call, with nothing written:
    /// `MissingStub` (the client must send the attachment's content again), the error of `validate`'s guard,
    /// or an error of the store.
    pub async fn update(
        self: &Arc<Self>,
        incoming: Vec<Incoming>,
        mode: Mode,
        validate: &dyn Validate,
    ) -> Result<Vec<Result<Revision>>> {
        let (terms, guard) = (validate.terms(self), validate.guard(self));
        let asks = validate.applies(self) || incoming.iter().any(|edit| edit.id.starts_with("_design/"));
        let mut prepared = if asks || !is_light(&incoming, mode) {
            let database = self.clone();
            crate::blocking::blocking(move || database.prepare(incoming, mode, asks, terms)).await?
        } else {
            self.prepare(incoming, mode, asks, terms)?
        };
        if let Some(Err(missing)) = prepared.iter().find(|entry| matches!(entry, Err(Error::MissingStub(_)))) {
            return Err(missing.clone());
        }
        if asks {
            let mut proposals = Vec::new();
            let mut asked = Vec::new();
            for (at, entry) in prepared.iter_mut().enumerate() {
                if let Ok((_, proposal)) = entry
                    && let Some(proposal) = proposal.take()
                {
                    asked.push(at);
                    proposals.push(proposal);
                }
            }
            let verdicts = validate.validate(self, proposals).await;
            for (at, verdict) in asked.into_iter().zip(verdicts) {
                if let Err(refused) = verdict {
                    prepared[at] = Err(refused);
                }
            }
        }
        let mut results: Vec<Option<Result<Revision>>> = Vec::with_capacity(prepared.len());
        let mut edits = Vec::with_capacity(prepared.len());
        for entry in prepared {
            match entry {
                Ok((edit, _)) => {
                    edits.push(edit);
                    results.push(None);
                }
                Err(error) => results.push(Some(Err(error))),
            }
        }
        if edits.is_empty() {
            return Ok(results.into_iter().flatten().collect());
        }
        let mut written = self.submit(|reply| Edits::new(edits, mode, guard, reply)).await?.into_iter();
        Ok(results
            .into_iter()
            .map(|result| result.unwrap_or_else(|| written.next().expect("one result per edit")))
            .collect())
    }
}

#[cfg(test)]
mod tests;
