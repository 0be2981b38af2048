//! Reads the changes of a database in pages, and splits them into steps that are mapped together.

use std::collections::VecDeque;
use std::sync::Arc;

use super::ahead::{Ahead, Answer, BATCH_BYTES};
use super::mapping::{Changed, Mapper};
use crate::error::{Error, Result};
use crate::store::{Direction, PageLimit};

/// Maximum number of changes in a page, and the approximate maximum size of their documents in bytes.
pub(super) const STEP: usize = 1000;
const STEP_BYTES: u64 = 4 << 20;

/// A page of changes.
pub(super) struct Page {
    /// The sequence of the index after this page.
    pub sequence: u64,
    /// Number of documents in the whole page that are mapped.
    living: usize,
    /// Changes that have not been taken yet.
    pub left: VecDeque<Changed>,
}

impl Page {
    pub fn new(sequence: u64, left: VecDeque<Changed>) -> Page {
        let living = left.iter().filter(|change| change.body().is_some()).count();
        Page { sequence, living, left }
    }
}

/// Consecutive changes, and the batch in which their documents are mapped.
pub(super) struct Step {
    /// The sequence of the index after this step.
    pub sequence: u64,
    pub documents: Vec<Changed>,
    /// For each document its index in the answer, or `None` if it is not mapped.
    pub places: Vec<Option<usize>>,
    pub answer: Option<Arc<Answer>>,
}

/// Reads changes for the index of a mapper.
pub(super) struct Reader<'a> {
    pub mapper: &'a Mapper,
}

impl<'a> Reader<'a> {
    /// Returns the pages of changes up to `target`.
    pub fn pages(&self, begin: u64, target: u64) -> impl Iterator<Item = Result<Page>> {
        let mut after = begin;
        std::iter::from_fn(move || {
            if after >= target {
                return None;
            }
            let page = self.page(after, target);
            after = page.as_ref().map_or(target, |page| page.sequence);
            Some(page)
        })
    }

    fn page(&self, after: u64, target: u64) -> Result<Page> {
        let database = &self.mapper.index.database;
        let info = database.info();
        let average = info.external / (info.documents + 1) + 1;
        let step = usize::try_from(STEP_BYTES / average).unwrap_or(STEP).clamp(8, STEP);
        let mut page = database.changes(after, Direction::Forward, PageLimit::entries(step))?;
        // The average may be small although many large documents follow each other here.
        let sizes = page.rows.iter().map(|(_, row)| row.winner().body.map_or(0, |body| body.bytes));
        page.rows.truncate(fitting(sizes));
        // No changes are left up to the target: their documents have changed again and have later sequences.
        let sequence = match page.rows.last() {
            Some((sequence, _)) => *sequence,
            None if page.through >= target => target,
            None => return Err(Error::Down("a failover has taken changes back".into())),
        };
        let include_design = self.mapper.index.definition.include_design;
        let rows = page.rows.into_iter().map(|(sequence, row)| Changed { sequence, id: row.id, leaves: row.leaves });
        let rows = rows.filter(|change| include_design || !change.id.starts_with("_design/"));
        Ok(Page::new(sequence, rows.collect()))
    }

    /// Takes the next documents of a page as a step and starts to map them.
    pub fn map_some(&self, ahead: &mut Ahead, page: &mut Page) -> Result<Step> {
        let (sequence, left) = (page.sequence, &mut page.left);
        let maps = !self.mapper.index.definition.maps.is_empty();
        let most = ahead.batch(page.living);
        let (mut documents, mut living, mut bytes) = (Vec::new(), 0, 0);
        while let Some(change) = left.pop_front() {
            if let Some(body) = change.body() {
                if maps && living > 0 && (living >= most || bytes + body.bytes > BATCH_BYTES) {
                    left.push_front(change);
                    break;
                }
                (living, bytes) = (living + 1, bytes + body.bytes);
            }
            documents.push(change);
        }
        let sequence = if left.is_empty() { sequence } else { documents.last().map_or(sequence, |last| last.sequence) };
        let mut step = Step { sequence, places: vec![None; documents.len()], documents, answer: None };
        if maps && living > 0 {
            let living = self.mapper.living(&step.documents, &mut step.places)?;
            step.answer = Some(match &self.mapper.index.definition.mango {
                None => ahead.add(living.len(), self.mapper.map(&living)),
                Some(indexes) => ahead.add_made(living.len(), self.mapper.indexed(indexes, &living)),
            });
        }
        Ok(step)
    }
}

/// Returns how many documents of these sizes make a page: about [`STEP_BYTES`], but at least one.
pub(super) fn fitting(sizes: impl Iterator<Item = u64>) -> usize {
    let before = |sum: &mut u64, size: u64| {
        let before = *sum;
        *sum = sum.saturating_add(size);
        Some(before)
    };
    sizes.scan(0, before).take_while(|before| *before < STEP_BYTES).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_large_documents_is_short() {
        assert_eq!(fitting([].into_iter()), 0);
        assert_eq!(fitting([1000; 900].into_iter()), 900);
        assert_eq!(fitting([10, 900 << 20, 10].into_iter()), 2);
        assert_eq!(fitting([900 << 20, 10].into_iter()), 1);
        assert_eq!(fitting([1 << 20; 1000].into_iter()), 4);
    }
}
