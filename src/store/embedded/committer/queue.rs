//! The queue of waiting commits, and how their callers wait for an answer or for the lead.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::store::{Batch, Result};

#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: VecDeque<Waiting>,
    /// Whether a caller leads, or has been notified to lead.
    pub(super) led: bool,
}

pub(super) struct Waiting {
    pub(super) batch: Batch,
    pub(super) ticket: Arc<Ticket>,
}

/// Where a caller waits for its answer or for the lead.
#[derive(Default)]
pub(super) struct Ticket {
    pub(super) news: Mutex<Option<News>>,
    pub(super) told: Condvar,
}

pub(super) enum News {
    Done(Result<()>),
    Lead,
}

impl Ticket {
    pub(super) fn tell(&self, news: News) {
        *self.news.lock() = Some(news);
        self.told.notify_one();
    }

    pub(super) fn wait(&self) -> News {
        let mut news = self.news.lock();
        loop {
            match news.take() {
                Some(news) => return news,
                None => self.told.wait(&mut news),
            }
        }
    }
}

/// Bytes of keys and values that a batch makes an engine write.
pub(super) fn batch_bytes(batch: &Batch) -> usize {
    batch.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum()
}
