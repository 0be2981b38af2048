//! A size on disk, which the database measures by looking at its files: too slow for every call.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::store::Result;

/// How long a measured size is returned without measuring again.
const FRESH: Duration = Duration::from_secs(10);

/// The last measured size, in bytes.
#[derive(Default)]
pub(super) struct MeasuredSize(Mutex<Option<(Instant, u64)>>);

impl MeasuredSize {
    /// Returns the size; if it cannot be measured, the last known size, or 0 if there is none.
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
