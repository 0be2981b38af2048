//! Writes mapped documents to an index, in commits of limited size.

use std::sync::Arc;

use super::blocks::Blocks;
use super::index::commit;
use super::layout::Meta;
use super::mapping::{Alone, Changed, Mapper, is_too_large};
use super::piece::{self, Piece, Rows};
use super::reader::Step;
use crate::error::{Error, Result};

/// Callback with the progress of an update: changes done, changes in total.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Writes steps to the index, piece by piece.
pub(super) struct Writer<'a> {
    mapper: &'a Mapper,
    progress: &'a Progress,
    /// The stored progress, encoded and decoded.
    stored: Option<Vec<u8>>,
    meta: Meta,
    /// The progress after the commit of the piece.
    pub next: Meta,
    piece: Piece,
    begin: u64,
    target: u64,
    /// Whether the old rows of the documents in the piece were looked up.
    looks_up: bool,
}

impl<'a> Writer<'a> {
    pub fn new(
        mapper: &'a Mapper,
        progress: &'a Progress,
        stored: Option<Vec<u8>>,
        meta: Meta,
        next: Meta,
        begin: u64,
        target: u64,
    ) -> Writer<'a> {
        progress(0, target.saturating_sub(begin));
        let piece = Piece::new(meta.rows.clone());
        Writer { mapper, progress, stored, meta, next, piece, begin, target, looks_up: false }
    }

    /// Writes all steps. Returns `false` if something else has changed the index.
    pub fn write_all(&mut self, steps: impl Iterator<Item = Result<Step>>) -> Result<bool> {
        for step in steps {
            if !self.write(step?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write(&mut self, step: Step) -> Result<bool> {
        let index = &self.mapper.index;
        // A new index has no rows of documents that changed before its build began.
        let looks_up = self.next.begun_at == 0 || step.sequence > self.next.begun_at;
        // A lookup does not see uncommitted rows, so the document must not be in the piece.
        let is_twice = looks_up && (!self.looks_up || step.documents.iter().any(|change| self.piece.has(&change.id)));
        self.looks_up = looks_up;
        if is_twice && !self.commit()? {
            return Ok(false);
        }
        let mapped = match step.answer.as_ref().map(|answer| answer.take()).transpose() {
            Err(error) if is_too_large(&error) => None,
            mapped => Some(mapped?),
        };
        let keys: Vec<Vec<u8>> = step.documents.iter().map(|change| index.layout.document(&change.id)).collect();
        let old = match looks_up {
            true => index.get_many(&keys)?,
            false => vec![None; keys.len()],
        };
        for (((change, place), key), old) in step.documents.iter().zip(&step.places).zip(keys).zip(old) {
            let alone = match (&mapped, place) {
                (None, Some(_)) => self.mapper.map_alone(change)?,
                _ => Alone::Gone,
            };
            let rows = match (&mapped, place, &alone) {
                (Some(Some(mapped)), Some(at), _) => Some(Rows { mapped, at: *at }),
                (_, _, Alone::Mapped(mapped)) => Some(Rows { mapped, at: 0 }),
                _ => None,
            };
            let refused = matches!(alone, Alone::TooLarge).then(piece::too_large);
            if !self.add(change, key, old, rows, refused)? {
                return Ok(false);
            }
        }
        self.next.sequence = step.sequence;
        Ok(true)
    }

    /// Adds a document to the piece. `refused`: the reason if it is skipped.
    fn add(
        &mut self,
        change: &Changed,
        key: Vec<u8>,
        old: Option<Vec<u8>>,
        rows: Option<Rows>,
        mut refused: Option<String>,
    ) -> Result<bool> {
        let index = &self.mapper.index;
        let (mut bytes, mut rows) = (0, rows);
        if let Some(Rows { mapped, at }) = rows {
            let (size, too_many) = piece::bytes_of(index, &change.id, Rows { mapped, at });
            if let Some(reason) = mapped.skipped(at) {
                (rows, refused) = (None, Some(reason.to_owned()));
            } else if too_many.is_some() {
                (rows, refused) = (None, too_many);
                self.mapper.scripts.count_skipped();
            } else {
                bytes = size;
            }
        } else if refused.is_some() {
            self.mapper.scripts.count_skipped();
        }
        if self.piece.goes_before(bytes) && !self.commit()? {
            return Ok(false);
        }
        self.piece.add(index, &change.id, key, old, rows, bytes)?;
        if self.looks_up {
            self.piece.looked_up(&change.id);
        }
        if let Some(reason) = &refused {
            self.piece.skip(&change.id, reason);
        }
        self.next.sequence = change.sequence;
        Ok(!self.piece.is_full() || self.commit()?)
    }

    /// Commits the piece and the progress.
    fn commit(&mut self) -> Result<bool> {
        let index = &self.mapper.index;
        self.next.rows.clone_from(&self.piece.rows);
        let piece = std::mem::replace(&mut self.piece, Piece::new(self.next.rows.clone()));
        let (batch, changed) = piece.finish(&Blocks { index, scripts: &self.mapper.scripts })?;
        self.next.settled &= !changed;
        if self.next != self.meta {
            if !commit(index, self.stored.take(), &self.next, batch)? {
                return Ok(false);
            }
            self.stored = Some(self.next.encode());
            self.meta.clone_from(&self.next);
            index.history.entries().relieve()?;
        }
        let done = self.next.sequence.saturating_sub(self.begin);
        let all = self.target.saturating_sub(self.begin);
        (self.progress)(done.min(all), all);
        if index.database.is_gone() { Err(Error::NoDatabase) } else { Ok(true) }
    }

    /// Commits the rest. The index has then reached `target`, or a later sequence.
    pub fn end(&mut self, target: u64) -> Result<bool> {
        self.next.sequence = self.next.sequence.max(target);
        self.commit()
    }
}
