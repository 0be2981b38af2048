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

/// Up to where a node knows the revocations: the store's epoch, and the number of the last one in it. A failover that loses
/// commits assigns numbers again.
pub(super) type Known = (u64, u64);

/// What a node knows after it has read `value` in `epoch`, and the users of the revocations that are new to it; `None`: it
/// cannot tell whose they are. A node that has just started knows nothing, and has no feeds. Without a `value`, nobody was
/// revoked ever.
pub(super) fn after(value: Option<&[u8]>, epoch: u64, known: Option<Known>) -> Result<(Known, Option<Vec<String>>)> {
    let mut noted = decode(value)?;
    let read = (epoch, noted.last);
    let new = match known {
        None => 0,
        Some(known) if epoch > known.0 => return Ok((read, None)),
        // It was read before what is known.
        Some(known) if read <= known => return Ok((known, Some(Vec::new()))),
        Some(known) => noted.last - known.1,
    };
    let first = noted.users.len().checked_sub(usize::try_from(new).unwrap_or(usize::MAX));
    Ok((read, first.map(|first| noted.users.split_off(first))))
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
        let stored = || store.get(&key()).unwrap();
        let learn = |last: Option<u64>| {
            let ((epoch, next), users) = after(stored().as_deref(), 1, last.map(|last| (1, last))).unwrap();
            assert_eq!(epoch, 1);
            (next, users)
        };
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
        let in_epoch = |epoch, last| after(stored().as_deref(), epoch, Some((3, last))).unwrap();
        assert_eq!(in_epoch(4, 900), ((4, MOST as u64 + 2), None), "revocations up to 900 were lost");
        assert_eq!(in_epoch(2, 1), ((3, 1), Some(vec![])), "it was read before a failover");
    }
}
