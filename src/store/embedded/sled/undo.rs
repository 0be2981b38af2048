//! The undo log of the batch that is being written.

use std::collections::BTreeMap;
use std::ops::Bound;

use sled::IVec;

use super::value::Value;
use crate::store::Direction;
use crate::store::range::KeyRange;

/// The values from before a batch, by key.
pub(super) type Before = BTreeMap<Vec<u8>, Option<Value>>;

/// Replaces the values that a batch in flight has written by those from `before`. `end` is the page's last
/// key if the range has more entries after the page.
pub(super) fn undo(
    page: &mut Vec<(IVec, Value)>,
    before: &Before,
    range: &KeyRange,
    direction: Direction,
    end: Option<&[u8]>,
) {
    let bound = |end: &[u8]| Bound::Included(end.to_vec());
    let covered = match (direction, end) {
        (Direction::Forward, Some(end)) => (range.0.clone(), bound(end)),
        (Direction::Backward, Some(end)) => (bound(end), range.1.clone()),
        (_, None) => range.clone(),
    };
    if before.range::<Vec<u8>, _>((covered.0.as_ref(), covered.1.as_ref())).next().is_none() {
        return;
    }
    page.retain(|(key, _)| !before.contains_key(key.as_ref()));
    for (key, value) in before.range::<Vec<u8>, _>((covered.0.as_ref(), covered.1.as_ref())) {
        if let Some(value) = value {
            page.push((IVec::from(key.as_slice()), value.clone()));
        }
    }
    page.sort_by(|(left, _), (right, _)| left.cmp(right));
    if direction == Direction::Backward {
        page.reverse();
    }
}
