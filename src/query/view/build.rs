//! Brings an index up to the database's sequence.
//!
//! ```text
//! page of changes > bodies > map functions on all threads ┐   maps the next batches (`reader`, `ahead`)
//!                                                          └> rows > commits, in order of changes (`writer`)
//! finally: counts and reduces the blocks whose rows changed (`blocks`)
//! ```
//!
//! Memory is bounded even if documents emit much: `ahead` limits what waits for the writer, `piece` what one
//! commit holds. A document that emits more than the limit has no rows, and the log names it.
//!
//! Only one update of an index runs at a time; queries that arrive meanwhile wait for it. Each commit
//! contains rows, references and progress, and requires that the stored progress is the one it started from,
//! so that no other change can come in between. Commits are not synced individually (see
//! `query::index::lsm`): an update after a crash repeats what was lost.
//!
//! The reference of a document leads to its old rows. A new index has no references, so documents up to the
//! sequence at which its build began are not looked up.

use std::collections::VecDeque;
use std::sync::mpsc;

use super::ahead::Ahead;
use super::blocks::Blocks;
use super::index::commit;
use super::layout::Meta;
use super::mapping::{Changed, Mapper};
use super::reader::{Page, Reader, STEP, fitting};
use super::writer::{Progress, Writer};
use crate::db::record::{Info, LeafRow};
use crate::error::{Error, Result};
use crate::store::Batch;

/// Maximum number of steps between the reader and the writer.
const AHEAD: usize = 64;
/// Up to this many changes, the update uses no separate reader thread.
const FEW: u64 = 64;
/// Maximum number of conflicting commits in an update.
const MOST_CONFLICTS: usize = 10;

/// An update of one index.
pub(super) struct Build {
    pub mapper: Mapper,
    pub progress: Progress,
}

impl Build {
    /// Joins small blocks, without updating the index, and merges its entries into one run.
    pub fn compact(&self) -> Result<()> {
        let (stored, Some(meta)) = self.mapper.index.meta()? else { return Ok(()) };
        let blocks = Blocks { index: &self.mapper.index, scripts: &self.mapper.scripts };
        blocks.join_small(stored, meta)?;
        let (stored, Some(meta)) = self.mapper.index.meta()? else { return Ok(()) };
        // If another change comes first, the next update settles the index.
        blocks.settle(stored, meta)?;
        Ok(self.mapper.index.history.entries().compact()?)
    }

    /// Brings the index up to the current sequence of its database.
    pub fn run(&self) -> Result<()> {
        let database = &self.mapper.index.database;
        let target = database.info();
        let mut conflicts = 0;
        loop {
            if database.is_gone() {
                return Err(Error::NoDatabase);
            }
            let (stored, meta) = self.mapper.index.meta()?;
            let done = match meta {
                Some(meta) if meta.purge_sequence >= target.forgotten_purges => {
                    if meta.purge_sequence < target.purge_sequence {
                        self.purged(stored, meta, target.purge_sequence)?
                    } else if meta.sequence < target.sequence {
                        self.changed(stored, meta, target.sequence)?
                    } else if !meta.settled {
                        let blocks = Blocks { index: &self.mapper.index, scripts: &self.mapper.scripts };
                        blocks.settle(stored, meta)?
                    } else {
                        return Ok(self.mapper.index.history.entries().rest()?);
                    }
                }
                // The index is new, has an older format, or missed purges that the database no longer knows:
                // rebuild it.
                _ => {
                    // `clear` cancels all readers. A reader of a new, empty index may go on: it reads no rows.
                    if stored.is_some() {
                        self.clear()?;
                    }
                    let meta = Meta {
                        sequence: 0,
                        purge_sequence: target.purge_sequence,
                        begun_at: target.sequence,
                        settled: true,
                        rows: vec![(0, 0); self.mapper.index.definition.maps.len()],
                    };
                    commit(&self.mapper.index, None, &meta, Batch::new())?
                }
            };
            if !done {
                conflicts += 1;
                if conflicts > MOST_CONFLICTS {
                    return Err(Error::Internal("something else keeps changing a view index during its update".into()));
                }
            }
        }
    }

    /// Applies all changes up to `target`. Returns `false` if something else has changed the index.
    fn changed(&self, stored: Option<Vec<u8>>, meta: Meta, target: u64) -> Result<bool> {
        let begin = meta.sequence;
        let ahead = self.ahead(&meta);
        let next = meta.clone();
        let mut writer = Writer::new(&self.mapper, &self.progress, stored, meta, next, begin, target);
        let reader = Reader { mapper: &self.mapper };
        let pages = reader.pages(begin, target);
        let written = match target - begin <= FEW {
            true => self.write_pages(pages, ahead, &mut writer)?,
            false => self.write_while_reading(pages, ahead, &mut writer)?,
        };
        Ok(written && writer.end(target)?)
    }

    fn ahead(&self, meta: &Meta) -> Ahead {
        let per_document = bytes_of_a_document(meta, &self.mapper.index.database.info());
        Ahead::new(self.mapper.scripts.limits().threads, per_document)
    }

    /// Maps and writes pages on this thread. Returns `false` if something else has changed the index.
    fn write_pages(
        &self,
        pages: impl Iterator<Item = Result<Page>>,
        mut ahead: Ahead,
        writer: &mut Writer<'_>,
    ) -> Result<bool> {
        let reader = Reader { mapper: &self.mapper };
        let mut steps = VecDeque::new();
        for page in pages {
            let mut page = page?;
            while !page.left.is_empty() {
                if ahead.wait(true) && !writer.write_all(steps.drain(..).map(Ok))? {
                    return Ok(false);
                }
                steps.push_back(reader.map_some(&mut ahead, &mut page)?);
            }
        }
        writer.write_all(steps.into_iter().map(Ok))
    }

    /// Writes pages on this thread while another one reads ahead and maps. Returns `false` if something else has
    /// changed the index.
    fn write_while_reading(
        &self,
        pages: impl Iterator<Item = Result<Page>> + Send,
        mut ahead: Ahead,
        writer: &mut Writer<'_>,
    ) -> Result<bool> {
        let reader = Reader { mapper: &self.mapper };
        std::thread::scope(|scope| {
            let (sender, steps) = mpsc::sync_channel(AHEAD);
            let read_all = move || {
                let read = || {
                    for page in pages {
                        let mut page = page?;
                        while !page.left.is_empty() {
                            ahead.wait(false);
                            let step = reader.map_some(&mut ahead, &mut page)?;
                            // The writer has failed: it no longer receives steps.
                            if sender.send(Ok(step)).is_err() {
                                return Ok(());
                            }
                        }
                    }
                    Ok(())
                };
                if let Err(error) = read() {
                    let _ = sender.send(Err(error));
                }
            };
            let thread = std::thread::Builder::new().name("index reader".into());
            let thread = thread.spawn_scoped(scope, read_all).map_err(|error| Error::Internal(error.to_string()))?;
            let written = writer.write_all(steps.into_iter());
            if thread.join().is_err() {
                // The steps ended early, and the changes that were not read must not count as done.
                return Err(Error::Internal("the reader thread of an index update panicked".into()));
            }
            written
        })
    }

    /// Applies purges. Purged documents are not among the changes, so their rows are looked up by id. Returns
    /// `false` if something else has changed the index.
    fn purged(&self, stored: Option<Vec<u8>>, meta: Meta, target: u64) -> Result<bool> {
        let database = &self.mapper.index.database;
        let requests = database.purges(meta.purge_sequence, STEP / 10)?;
        let (sequences, ids): (Vec<u64>, Vec<String>) =
            requests.into_iter().map(|(sequence, request)| (sequence, request.id)).unzip();
        let leaves: Vec<Vec<LeafRow>> = ids
            .iter()
            .zip(database.records(&ids)?)
            .map(|(id, record)| record.map(|record| record.sequence_row(id).leaves).unwrap_or_default())
            .collect();
        let size = |leaves: &Vec<LeafRow>| leaves.first().and_then(|leaf| leaf.body).map_or(0, |body| body.bytes);
        let taken = fitting(leaves.iter().map(size));
        let purge_sequence = taken.checked_sub(1).map_or(target, |last| sequences[last]);
        let sequence = meta.sequence;
        let changed = |(id, leaves)| Changed { sequence, id, leaves };
        let mut left: VecDeque<Changed> = ids.into_iter().zip(leaves).take(taken).map(changed).collect();
        left.make_contiguous().sort_unstable_by(|one, two| one.id.cmp(&two.id));
        let mut seen = None;
        left.retain(|change| seen.replace(change.id.clone()).as_ref() != Some(&change.id));
        let ahead = self.ahead(&meta);
        // `begun_at: 0` makes the writer look up all old rows. If this is interrupted, the next update repeats the
        // purges, and the references lead to what was committed before.
        let next = Meta { begun_at: 0, ..meta.clone() };
        let mut writer = Writer::new(&self.mapper, &self.progress, stored, meta, next, sequence, sequence);
        let pages = std::iter::once(Ok(Page::new(sequence, left)));
        if !self.write_pages(pages, ahead, &mut writer)? {
            return Ok(false);
        }
        writer.next.purge_sequence = purge_sequence;
        writer.end(sequence)
    }

    /// Removes the whole index, its progress first.
    fn clear(&self) -> Result<()> {
        Ok(self.mapper.index.history.clear()?)
    }
}

/// Returns the average size of a document's rows in the index, in bytes.
fn bytes_of_a_document(meta: &Meta, info: &Info) -> usize {
    let bytes: u64 = meta.rows.iter().map(|(rows, bytes)| 16 * rows + bytes).sum();
    usize::try_from(bytes / (info.documents + 1)).unwrap_or(usize::MAX)
}
