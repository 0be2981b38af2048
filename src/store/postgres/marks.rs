//! Marks: the databases that a node has changed, and for which `_db_updates` has no event yet.
//!
//! A node writes these events a moment after the commits, and may die in between. So each commit notes its database in
//! its slot: a row that it writes anyway, in the same transaction, and that no other commit waits for.
//!
//! ```text
//! commit ─► slot: marks = databases of this commit and of earlier ones of the slot that are not announced
//! events committed ─► announced: no longer held. The slot's next commit overwrites its row, or `slot::empty` does
//! node dies ─► its rows stay ─► another node: `take` ─► writes the events ─► `settle`
//! ```
//!
//! A mark may stay longer than needed: then an event is written twice. It never goes before its event is committed. A
//! failover may lose the event and keep the commit, so a slot is used only on the timeline on which it was made: on the
//! next one, its row is left as that of a dead node.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::connections::Connections;
use crate::store::{LeftMarks, Mark, Result};

/// A row with marks that has not been used for this time, in seconds, is left. A node that lives empties it earlier.
const LEFT: u32 = 20;
/// The pause between two looks for rows to empty, and how long a row is not used before it is emptied. A row in use is
/// overwritten by its next commit.
pub(super) const IDLE: Duration = Duration::from_secs(5);
/// A slot with so many marks is not used until they are announced: each commit would write them again.
const MANY: usize = 1000;
/// The most rows that are taken at once: they have a bounded number of marks.
const ROWS: u32 = 50;

/// The marks of a slot: databases, and their last sequences.
type Sequences = Mutex<HashMap<i64, u64>>;

/// The marks of one slot that are not announced yet.
#[derive(Debug, Default)]
pub(super) struct Marks(Arc<Sequences>);

impl Marks {
    /// The databases of these marks, and of the marks of `batches` (batch, database, sequence).
    pub fn with(&self, batches: &[(i32, i64, u64)]) -> Vec<i64> {
        let held = self.0.lock();
        let mut all: Vec<i64> = held.keys().copied().chain(batches.iter().map(|(_, database, _)| *database)).collect();
        drop(held);
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Adds the marks of the batches that were committed: all but `failed`.
    pub fn add(&self, batches: &[(i32, i64, u64)], failed: &[i32]) {
        let mut held = self.0.lock();
        for (_, database, sequence) in batches.iter().filter(|(batch, ..)| !failed.contains(batch)) {
            let last = held.entry(*database).or_default();
            *last = (*last).max(*sequence);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Whether the slot should not get more of them.
    pub fn are_many(&self) -> bool {
        self.0.lock().len() >= MANY
    }
}

/// The marks of all slots of this node.
#[derive(Default)]
pub(super) struct AllMarks(Mutex<Vec<Weak<Sequences>>>);

impl AllMarks {
    /// Adds those of a new slot.
    pub fn add(&self, marks: &Marks) {
        self.0.lock().push(Arc::downgrade(&marks.0));
    }

    /// Forgets the marks of these databases up to these sequences.
    pub fn announced(&self, marks: &[Mark]) {
        let until: HashMap<i64, u64> = marks.iter().map(|mark| (mark.database as i64, mark.sequence)).collect();
        self.0.lock().retain(|slot| {
            let Some(slot) = slot.upgrade() else { return false };
            slot.lock().retain(|database, sequence| until.get(database).is_none_or(|until| *sequence > *until));
            true
        });
    }
}

/// Takes the marks of rows that were left. They count as used now, so that no other node takes them meanwhile.
pub(super) async fn take(connections: Connections) -> Result<LeftMarks> {
    let slots = format!("{}.slots", connections.address.schema);
    // An array, so that the rows are selected once, whatever the plan.
    let sql = format!(
        "update {slots} set used = now() where id = any(array(select id from {slots} \
           where used < now() - interval '{LEFT} seconds' and marks <> '{{}}' limit {ROWS} for update skip locked)) \
         returning id, number, marks"
    );
    let mut left = LeftMarks::default();
    for row in connections.rows(&sql, Vec::new()).await? {
        left.places.push((row.get(0), row.get(1)));
        left.databases.extend(row.get::<_, Vec<i64>>(2).into_iter().map(|number| number as u64));
    }
    Ok(left)
}

/// Empties rows that were taken, except for those that their node has used since.
pub(super) async fn settle(connections: Connections, left: LeftMarks) -> Result<()> {
    let (ids, numbers): (Vec<i64>, Vec<i64>) = left.places.into_iter().unzip();
    let sql = empty_sql(&connections.address.schema);
    connections.rows(&sql, vec![Box::new(ids), Box::new(numbers)]).await.map(drop)
}

/// Empties the rows with these ids, except those that were used after the commits with these numbers. A row may have a lower
/// number than its slot in memory: a commit that was rolled back counts only there.
pub(super) fn empty_sql(schema: &dyn std::fmt::Display) -> String {
    format!(
        "update {schema}.slots as slot set marks = '{{}}' from unnest($1::int8[], $2::int8[]) known(id, number) \
         where slot.id = known.id and slot.number <= known.number"
    )
}
