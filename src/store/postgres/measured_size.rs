//! A size on disk, which the database measures by looking at its files: too slow for each question.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::store::Result;

/// How long a measured size is taken for the size.
const FRESH: Duration = Duration::from_secs(10);

/// The last measured size, in bytes.
#[derive(Default)]
pub(super) struct MeasuredSize(Mutex<Option<(Instant, u64)>>);

impl MeasuredSize {
    /// The size; that of before if it cannot be measured now, and 0 if it never could.
    pub fn get(&self, measure: impl FnOnce() -> Result<tokio_postgres::Row>) -> u64 {
        let mut last = self.0.lock();
        if let Some((measured, size)) = *last
            && measured.elapsed() < FRESH
        {
            return size;
        }
        let now = measure().ok().and_then(|row| u64::try_from(row.get::<_, i64>(0)).ok());
        let size = now.or(last.map(|(_, size)| size)).unwrap_or(0);
        *last = Some((Instant::now(), size));
        size
    }
}
