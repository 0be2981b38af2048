//! Read-modify-write of one record.

use std::time::Duration;

use super::{Batch, Durability, Store, StoreError};

/// How often [`update`] reads the record before it returns the conflict.
const ATTEMPTS: usize = 32;

/// What [`update`] does with the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Leaves it as it is; nothing is committed.
    Keep,
    /// Commits a new value; `None` deletes the record.
    Write(Option<Vec<u8>>, Durability),
}

/// Changes one record: reads it, passes it to `change`, and commits the result only if the record still has
/// the value that was read. If another writer has committed in between, it starts again with that writer's
/// value. `change` may therefore be called several times. Returns what the last call of `change` returned.
///
/// A record is never derived from a copy in memory and written back without an expectation: that would undo
/// what another writer has committed since the copy was made. Records of a database change in the commits of
/// its writer (`db::commit::draft`), which follow the same rule.
///
/// # Errors
/// Those of `change` and of the store; [`StoreError::Conflict`] if other writers came in between each time.
pub fn update<T, E: From<StoreError>>(
    store: &dyn Store,
    key: &[u8],
    mut change: impl FnMut(Option<&[u8]>) -> Result<(Change, T), E>,
) -> Result<T, E> {
    update_with(store, key, |_| Ok(()), &mut change)
}

/// As [`update`]. `beside` adds further writes and their expectations to the commit of the changed record.
pub fn update_with<T, E: From<StoreError>>(
    store: &dyn Store,
    key: &[u8],
    beside: impl Fn(&mut Batch) -> Result<(), E>,
    mut change: impl FnMut(Option<&[u8]>) -> Result<(Change, T), E>,
) -> Result<T, E> {
    for attempt in 1..=ATTEMPTS {
        let stored = store.get(key)?;
        let (change, result) = change(stored.as_deref())?;
        let Change::Write(value, durability) = change else { return Ok(result) };
        let mut batch = Batch { durability, ..Batch::new() };
        batch.expect(key.to_vec(), stored);
        batch.writes.push((key.to_vec(), value));
        beside(&mut batch)?;
        match store.commit(batch) {
            Ok(()) => return Ok(result),
            Err(StoreError::Conflict) => pause_after_conflict(store, attempt),
            Err(error) => return Err(error.into()),
        }
    }
    Err(StoreError::Conflict.into())
}

/// Pauses before a writer of a shared store reads again, for a random time that grows with its conflicts, so
/// that writers on several nodes do not meet again and again. Returns at once on an embedded store.
pub fn pause_after_conflict(store: &dyn Store, conflicts: usize) {
    if store.is_shared() {
        let most = 1_000 << conflicts.min(6);
        let mut random = [0; 4];
        // Without randomness the pause is the longest one.
        let part = getrandom::fill(&mut random).map_or(u32::MAX, |()| u32::from_le_bytes(random));
        std::thread::sleep(Duration::from_micros((u64::from(part) * most) >> 32));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::memory::Memory;
    use super::super::rival::Rival;
    use super::*;

    const KEY: &[u8] = b"k";

    fn append(store: &dyn Store, byte: u8) -> Result<usize, StoreError> {
        let mut calls = 0;
        update(store, KEY, |stored| {
            calls += 1;
            let mut value = stored.unwrap_or_default().to_vec();
            value.push(byte);
            Ok((Change::Write(Some(value), Durability::Synced), calls))
        })
    }

    #[test]
    fn a_commit_of_another_writer_in_between_is_not_lost() {
        let store = Rival::new(Arc::new(Memory::new()), KEY);
        assert_eq!(append(&store, b'a'), Ok(1));
        store.writes_next(["ax", "axy"]);
        assert_eq!(append(&store, b'b'), Ok(3), "both commits of the other writer were seen");
        assert_eq!(store.get(KEY), Ok(Some(b"axyb".to_vec())));
    }

    #[test]
    fn the_number_of_attempts_is_limited() {
        let store = Rival::new(Arc::new(Memory::new()), KEY);
        store.writes_next((0..ATTEMPTS as u8).map(|at| [at]));
        assert_eq!(append(&store, b'a'), Err(StoreError::Conflict));
        assert_eq!(append(&store, b'a'), Ok(1));
    }

    #[test]
    fn keeping_a_record_commits_nothing_and_a_record_can_be_deleted() {
        let store = Rival::new(Arc::new(Memory::new()), KEY);
        append(&store, b'a').unwrap();
        store.writes_next([b"x"]);
        assert_eq!(update(&store, KEY, |_| Ok::<_, StoreError>((Change::Keep, 7))), Ok(7));
        assert_eq!(store.get(KEY), Ok(Some(b"a".to_vec())), "no commit, so the other writer did not come in between");
        let delete = |stored: Option<&[u8]>| match stored {
            Some(b"x") => Ok((Change::Write(None, Durability::Relaxed), true)),
            _ => Ok::<_, StoreError>((Change::Write(Some(b"y".to_vec()), Durability::Relaxed), false)),
        };
        assert_eq!(update(&store, KEY, delete), Ok(true));
        assert_eq!(store.get(KEY), Ok(None));
    }

    #[test]
    fn many_threads_lose_no_update() {
        let store = Memory::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        while append(&store, b'a') == Err(StoreError::Conflict) {}
                    }
                });
            }
        });
        assert_eq!(store.get(KEY).unwrap().map(|value| value.len()), Some(200));
    }
}
