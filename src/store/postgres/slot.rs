//! Slots: how a node finds out the outcome of a commit whose connection was lost.
//!
//! A slot is a row that only one commit of one node uses at a time. Each commit writes its number there, as the last
//! thing that it does and in the same transaction. If the connection is lost, the node *fences* the slot on another
//! connection: it waits for a transaction that has locked the row, and a later transaction finds the slot fenced and is
//! rolled back. The row then holds the final outcome, whatever the lost connection still does.

use std::time::Instant;

use tokio_postgres::error::SqlState;

use super::connections::{Connections, failed_call, silent};
use super::errors::Fate;
use super::marks::{Marks, empty_sql};
use crate::store::{Result, StoreError};

/// The error of `commit` if its slot is fenced or gone: nothing was written.
const GONE: &str = "SE001";

/// A row of `slots`.
#[derive(Debug)]
pub(super) struct Slot {
    pub id: i64,
    /// The number of the last commit that was sent.
    pub number: i64,
    /// The timeline of the server on which the row was made.
    pub timeline: u64,
    /// The changes of its commits that are not announced yet.
    pub marks: Marks,
    /// Whether the row may have marks.
    pub is_marked: bool,
    /// When its last commit has ended.
    pub used: Instant,
}

/// What a fenced slot says about its last commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It has taken effect, except for the batches with these numbers, whose expectations did not hold.
    Committed(Vec<i32>),
    /// It has not taken effect and never will.
    Nothing,
}

impl Slot {
    /// Makes a slot.
    pub async fn make(connections: &Connections) -> Result<Slot> {
        let id = random();
        let client = connections.get().await?;
        let timeline = connections.hosts.timeline();
        let sql = format!("insert into {}.slots (id) values ($1)", connections.address.schema);
        match connections.guarded(&client, client.execute(&sql, &[&id])).await {
            Some(Ok(_)) => {
                Ok(Slot { id, number: 0, timeline, marks: Marks::default(), is_marked: false, used: Instant::now() })
            }
            None => Err(silent()),
            Some(Err(error)) => {
                connections.forget();
                Err(match Fate::of(&error) {
                    Fate::Failed(error) => error,
                    _ => StoreError::Down(super::errors::text(&error)),
                })
            }
        }
    }

    /// Whether the error says that the slot is fenced or gone.
    pub fn is_gone(error: &tokio_postgres::Error) -> bool {
        error.code().map(SqlState::code) == Some(GONE)
    }

    /// Fences the slot, and returns the outcome of its last commit. Can be called again after an error.
    pub async fn fence(&self, connections: &Connections) -> Result<Told> {
        let client = connections.get().await?;
        let sql = format!(
            "update {}.slots set fenced = true where id = $1 returning number, failed",
            connections.address.schema
        );
        match connections.guarded(&client, client.query_opt(&sql, &[&self.id])).await {
            Some(Ok(Some(row))) if row.get::<_, i64>(0) == self.number => Ok(Told::Committed(row.get(1))),
            // A server that has lost the slot has lost the commit too.
            Some(Ok(_)) => Ok(Told::Nothing),
            None => Err(silent()),
            Some(Err(error)) => {
                connections.forget();
                Err(StoreError::Down(super::errors::text(&error)))
            }
        }
    }
}

/// Removes the marks from the rows of `slots`, which nobody uses meanwhile, and which hold none any more. If the statement
/// takes effect so late that a slot was used again, its marks stay.
pub(super) async fn empty(connections: &Connections, slots: &mut Vec<Slot>) -> Result<()> {
    let client = connections.get().await?;
    let timeline = connections.hosts.timeline();
    slots.retain(|slot| slot.timeline == timeline);
    let (ids, numbers): (Vec<i64>, Vec<i64>) = slots.iter().map(|slot| (slot.id, slot.number)).unzip();
    let sql = empty_sql(&connections.address.schema);
    match connections.guarded(&client, client.execute(&sql, &[&ids, &numbers])).await {
        Some(Ok(_)) => {
            slots.iter_mut().for_each(|slot| slot.is_marked = false);
            Ok(())
        }
        ended => Err(failed_call(ended)),
    }
}

/// A random positive number.
pub(super) fn random() -> i64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    i64::from_le_bytes(bytes) & i64::MAX
}

/// Removes the slots of nodes that ended long ago, and whose marks were settled. A node that was idle for as long gets a
/// new slot.
pub(super) async fn sweep(connections: &Connections) -> Result<()> {
    let slots = format!("{}.slots", connections.address.schema);
    let sql = format!("delete from {slots} where used < now() - interval '1 day' and marks = '{{}}'");
    connections.rows(&sql, Vec::new()).await.map(drop)
}
