//! The keys that a store accepts, and those that engines reserve for themselves.

use std::ops::Bound;

use super::range::KeyRange;
use super::{MAX_KEY, Result, StoreError};

/// The first byte of keys that engines use themselves and hide from readers.
pub(crate) const RESERVED: u8 = 0xFF;

/// The key of the record of the store's totals (see `embedded::tally`).
pub(crate) const TOTALS: &[u8] = &[RESERVED];

/// The range without the keys that engines reserve.
pub(crate) fn clamp((low, high): &KeyRange) -> KeyRange {
    let high = match high {
        Bound::Unbounded => Bound::Excluded(vec![RESERVED]),
        bounded => bounded.clone(),
    };
    (low.clone(), high)
}

/// Checks that a key does not begin with 0xFF, which is reserved for engines, and that it is short enough: an
/// engine's index page of long keys must stay small.
pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    match key.first() {
        Some(&RESERVED) | None => Err(StoreError::Unavailable("a key must not be empty or begin with 0xFF".into())),
        Some(_) if key.len() > MAX_KEY => {
            Err(StoreError::Unavailable(format!("a key of {} bytes is over the limit of {MAX_KEY}", key.len())))
        }
        Some(_) => Ok(()),
    }
}
