//! Whose sessions were revoked lately, on a shared store: one record that every revocation rewrites in its own
//! commit. A node that finds it changed wakes the feeds of the users that are new in it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::{Batch, Store, keyspace};

/// The most revocations that the record remembers. A node that has missed more wakes all feeds.
const MOST: usize = 64;
const VERSION: u8 = 1;

/// The key of the record.
pub fn key() -> Vec<u8> {
    keyspace::server("revoked_users")
}

/// JSON after a version byte.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Noted {
    /// The number of the last revocation.
    last: u64,
    /// The users of the last revocations, the newest last.
    users: Vec<String>,
}

fn decode(value: Option<&[u8]>) -> Result<Noted> {
    let damaged = || Error::Damaged("the record of revoked users".into());
    match value {
        None => Ok(Noted::default()),
        Some([VERSION, json @ ..]) => serde_json::from_slice(json).map_err(|_| damaged()),
        Some(_) => Err(damaged()),
    }
}

/// Adds a revocation to the commit that revokes.
pub(super) fn note(store: &dyn Store, batch: &mut Batch, user: &str) -> Result<()> {
    let stored = store.get(&key())?;
    let mut noted = decode(stored.as_deref())?;
    noted.last += 1;
    noted.users.push(user.to_owned());
    let surplus = noted.users.len().saturating_sub(MOST);
    noted.users.drain(..surplus);
    let mut value = vec![VERSION];
    serde_json::to_writer(&mut value, &noted).map_err(|error| Error::Internal(error.to_string()))?;
    batch.expect(key(), stored);
    batch.put(key(), value);
    Ok(())
}

/// The number of the last revocation, and the users of those after `last`; `None`: there were too many to tell.
/// Without a `last`, the node has just started and has no feeds. Without a `value`, nobody was revoked ever.
pub(super) fn after(value: Option<&[u8]>, last: Option<u64>) -> Result<(u64, Option<Vec<String>>)> {
    let mut noted = decode(value)?;
    let new = last.map_or(0, |last| noted.last.saturating_sub(last));
    let first = noted.users.len().checked_sub(usize::try_from(new).unwrap_or(usize::MAX));
    let users = first.map(|first| noted.users.split_off(first));
    Ok((noted.last.max(last.unwrap_or(0)), users))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;

    #[test]
    fn a_node_learns_of_the_users_that_are_new_and_of_everybody_if_it_missed_some() {
        let store = Memory::new();
        let revoke = |user: &str| {
            let mut batch = Batch::new();
            note(&store, &mut batch, user).unwrap();
            store.commit(batch).unwrap();
        };
        let learn = |last| after(store.get(&key()).unwrap().as_deref(), last).unwrap();
        assert_eq!(learn(None), (0, Some(vec![])));
        revoke("ann");
        assert_eq!(learn(Some(0)), (1, Some(vec!["ann".to_owned()])));
        revoke("bob");
        assert_eq!(learn(None), (2, Some(vec![])));
        assert_eq!(learn(Some(2)), (2, Some(vec![])));
        assert_eq!(learn(Some(1)), (2, Some(vec!["bob".to_owned()])));
        assert_eq!(learn(Some(5)), (5, Some(vec![])), "an older value says nothing new");
        for number in 0..MOST {
            revoke(&number.to_string());
        }
        assert_eq!(learn(Some(2)).1.unwrap().len(), MOST);
        assert_eq!(learn(Some(1)), (MOST as u64 + 2, None));
    }
}
