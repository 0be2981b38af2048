//! Writes the edits of one call: prepares them, has them validated, and submits them to the writer.

use std::collections::VecDeque;
use std::sync::Arc;

use super::document_edits::Edits;
use super::incoming::{Incoming, Source};
use super::validate::{Proposal, Validate};
use crate::db::Database;
use crate::db::commit::prepared_edit::{Edit, Mode};
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
        let light = !asks && is_light(&incoming, mode);
        let mut incoming = VecDeque::from(incoming);
        let mut prepared = Vec::with_capacity(incoming.len());
        while !incoming.is_empty() {
            let some = if light {
                self.prepare(&mut incoming, mode, asks, terms)?
            } else {
                let database = self.clone();
                let (some, rest) = crate::blocking::blocking(move || {
                    let some = database.prepare(&mut incoming, mode, asks, terms)?;
                    Ok::<_, Error>((some, incoming))
                })
                .await?;
                incoming = rest;
                some
            };
            if let Some(Err(missing)) = some.iter().find(|entry| matches!(entry, Err(Error::MissingStub(_)))) {
                return Err(missing.clone());
            }
            prepared.extend(self.judge(some, validate).await);
        }
        let mut results: Vec<Option<Result<Revision>>> = Vec::with_capacity(prepared.len());
        let mut edits = Vec::with_capacity(prepared.len());
        for entry in prepared {
            match entry {
                Ok(edit) => {
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

    /// Passes the proposals of prepared edits to `validate`. Returns the edits; the refused ones have become
    /// errors.
    async fn judge(
        self: &Arc<Self>,
        prepared: Vec<Result<(Edit, Option<Proposal>)>>,
        validate: &dyn Validate,
    ) -> Vec<Result<Edit>> {
        let (mut proposals, mut asked) = (Vec::new(), Vec::new());
        let mut edits = Vec::with_capacity(prepared.len());
        for (at, entry) in prepared.into_iter().enumerate() {
            edits.push(entry.map(|(edit, proposal)| {
                if let Some(proposal) = proposal {
                    asked.push(at);
                    proposals.push(proposal);
                }
                edit
            }));
        }
        if proposals.is_empty() {
            return edits;
        }
        let verdicts = validate.validate(self, proposals).await;
        for (at, verdict) in asked.into_iter().zip(verdicts) {
            if let Err(refused) = verdict {
                edits[at] = Err(refused);
            }
        }
        edits
    }
}

#[cfg(test)]
mod tests;
