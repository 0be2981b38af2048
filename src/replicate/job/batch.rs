//! One batch of changes: fetches what the target does not have, and writes it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::replicate::Pending;
use crate::replicate::failure::Failure;
use crate::replicate::memory::Share;
use crate::replicate::peer::{Change, Document, Missing, Peer, Sink, Verdict};
use crate::replicate::progress::Progress;
use crate::rev::Revision;

/// Documents are written when this many bytes of them are in memory...
const BUFFER: usize = 4 << 20;
/// ...or this many of them.
const DOCUMENTS: usize = 1000;

/// What the batches of a pass share.
pub(super) struct Copier<'a> {
    pub source: &'a dyn Peer,
    pub target: &'a dyn Peer,
    pub memory: &'a Share,
    pub progress: &'a Progress,
    /// The replication's id, for the log.
    pub id: &'a str,
}

fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

impl Copier<'_> {
    /// Copies the revisions of a page of changes that the target does not have. When this returns, the target has
    /// acknowledged them.
    pub async fn copy(&self, changes: Vec<Change>) -> Result<(), Failure> {
        let count = changes.len();
        if count > 0 {
            self.copy_some(merged(changes)).await?;
        }
        add(&self.progress.changes_done, count);
        Ok(())
    }

    async fn copy_some(&self, changes: Vec<Change>) -> Result<(), Failure> {
        add(&self.progress.missing_checked, changes.iter().map(|change| change.revisions.len()).sum());
        let missing = self.target.missing(changes).await?;
        if missing.is_empty() {
            return Ok(());
        }
        add(&self.progress.missing_found, missing.iter().map(|missing| missing.revisions.len()).sum());
        let mut buffer = Buffer { copier: self, documents: Vec::new(), bytes: 0, without_content: Vec::new() };
        self.source.fetch(missing, &mut buffer).await?;
        buffer.flush().await?;
        let again = std::mem::take(&mut buffer.without_content);
        if !again.is_empty() {
            // Without ancestors, so that nothing is left out.
            self.source.fetch(again, &mut buffer).await?;
            buffer.flush().await?;
            if let Some(missing) = buffer.without_content.first() {
                let text = format!("the target asks for the attachments of {}, which were sent", missing.id);
                return Err(Failure::Protocol(text));
            }
        }
        Ok(())
    }
}

/// The changes with each document once, in their order: bodies of a database here are stored in it. A document that
/// is listed twice has changed in between.
fn merged(changes: Vec<Change>) -> Vec<Change> {
    let ids: HashSet<&str> = changes.iter().map(|change| change.id.as_str()).collect();
    if ids.len() == changes.len() {
        return changes;
    }
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut merged: Vec<Change> = Vec::with_capacity(changes.len());
    for change in changes {
        match places.get(&change.id) {
            None => {
                places.insert(change.id.clone(), merged.len());
                merged.push(change);
            }
            Some(at) => {
                let known = &mut merged[*at].revisions;
                let new: Vec<Revision> = change.revisions.into_iter().filter(|it| !known.contains(it)).collect();
                known.extend(new);
            }
        }
    }
    merged
}

/// Collects documents, and writes them when there are enough.
struct Buffer<'a> {
    copier: &'a Copier<'a>,
    documents: Vec<Document>,
    bytes: usize,
    /// Documents whose left out attachments the target does not have.
    without_content: Vec<Missing>,
}

impl Sink for Buffer<'_> {
    fn deliver(&mut self, mut document: Document) -> Pending<'_, Result<(), Failure>> {
        Box::pin(async move {
            add(&self.copier.progress.docs_read, 1);
            let bytes = document.bytes();
            document.held = self.copier.memory.hold_now(bytes);
            if document.held.is_none() {
                // Others have the memory. Holding none while waiting for it keeps all going.
                self.flush().await?;
                document.held = Some(self.copier.memory.hold(bytes).await);
            }
            self.bytes += bytes;
            self.documents.push(document);
            if self.bytes >= BUFFER || self.documents.len() >= DOCUMENTS {
                self.flush().await?;
            }
            Ok(())
        })
    }

    fn wanted(&self) -> Pending<'_, ()> {
        match self.documents.is_empty() {
            true => Box::pin(std::future::pending()),
            false => Box::pin(self.copier.memory.wanted()),
        }
    }

    fn flush(&mut self) -> Pending<'_, Result<(), Failure>> {
        Box::pin(async move {
            if self.documents.is_empty() {
                return Ok(());
            }
            self.bytes = 0;
            let documents = std::mem::take(&mut self.documents);
            let names: Vec<(String, Revision)> =
                documents.iter().map(|document| (document.id.clone(), document.revision())).collect();
            let verdicts = self.copier.target.write(documents).await?;
            if verdicts.len() != names.len() {
                return Err(Failure::Protocol("the target has not answered for all documents".into()));
            }
            for ((id, revision), verdict) in names.into_iter().zip(verdicts) {
                match verdict {
                    Verdict::Written => add(&self.copier.progress.docs_written, 1),
                    Verdict::Refused(why) => self.pass_over(&id, &revision, &why),
                    Verdict::MissingStub => {
                        self.without_content.push(Missing { id, revisions: vec![revision], ancestors: Vec::new() });
                    }
                }
            }
            Ok(())
        })
    }

    fn pass_over(&mut self, id: &str, revision: &Revision, why: &str) {
        add(&self.copier.progress.doc_write_failures, 1);
        let replication = self.copier.id;
        tracing::warn!(target: "settee::replicate", replication, id, %revision, "a revision is not replicated: {why}");
    }

    fn count_bulk_get(&mut self, attempts: u64, documents: u64) {
        self.copier.progress.bulk_get_attempts.fetch_add(attempts, Ordering::Relaxed);
        self.copier.progress.bulk_get_docs.fetch_add(documents, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_is_listed_twice_is_asked_for_once() {
        let change = |id: &str, revisions: &[&str]| Change {
            id: id.into(),
            revisions: revisions.iter().map(|revision| revision.parse().unwrap()).collect(),
        };
        let merged = merged(vec![change("b", &["1-x"]), change("a", &["2-y"]), change("b", &["1-x", "2-z"])]);
        assert_eq!(merged, [change("b", &["1-x", "2-z"]), change("a", &["2-y"])]);
    }
}
